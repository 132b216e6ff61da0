"""Facts and a policy version in; approve, ask a person, refuse or hold out, always with a code and a reason."""
