"""Opens connections through programs that reach other networks, such as cloud command-line tools."""
