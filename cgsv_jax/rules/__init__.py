"""The server's rules, and how methods are made of them."""
