"""The yardstick in PyTorch, in a process of its own.

`work` says what is to be done, in NumPy; `networks` are the models; `sequential` is the released
procedure, one client after the other; `stacked` is what a fair expert would write today; `worker`
runs either in a process that JAX never shares. Only that process imports torch.
"""
