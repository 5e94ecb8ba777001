"""Fair collaborative learning in JAX: the cosine gradient Shapley value, clients as rows."""
