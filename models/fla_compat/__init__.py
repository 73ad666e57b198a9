"""flash-linear-attention's public names for candidates, resolved to twins that need neither it nor a GPU.

`names` says which names there are, without importing torch; `imports` turns a program's imports of them into
imports of the twins when the program is loaded. The package `fla` itself is never imported, nor made importable.
Keyword names, layouts and defaults are those of flash-linear-attention 0.6.0.
"""
