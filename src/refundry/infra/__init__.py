"""Technical means without business words: settings, the database, the group-commit writer, pace, the engine, logs, HTTP."""
