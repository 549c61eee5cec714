"""Opens connections to other networks through external programs, such as command-line tools of cloud providers."""
