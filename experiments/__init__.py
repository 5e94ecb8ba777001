"""Tables and figures by command; see README.md in this folder."""
