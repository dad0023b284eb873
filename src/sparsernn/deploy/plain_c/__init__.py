"""Models as plain C for small devices."""

from sparsernn.deploy.plain_c.device_files import WrittenC, write_c

__all__ = ["WrittenC", "write_c"]
