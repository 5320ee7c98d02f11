"""What the commands and Python users call: one function for each thing to do."""
