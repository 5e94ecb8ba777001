"""Many experiments: which, in which programs, where, and what came out."""
