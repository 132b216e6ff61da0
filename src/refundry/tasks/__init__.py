"""What a person has to do where nothing goes on by itself: opened with its cause, resolved by a choice that is written down. It moves no money."""
