"""Where clients come in: listeners, admission, and the wait for a far side to join them to."""
