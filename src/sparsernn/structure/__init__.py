"""Which slices of which tensors make up a gate or a hidden unit, in this library's layers and in torch's own."""
