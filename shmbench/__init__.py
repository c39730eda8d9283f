"""shmbench: how fast is this node's shared memory, and is that what the hardware can do?"""

__version__ = "0.1.0"
