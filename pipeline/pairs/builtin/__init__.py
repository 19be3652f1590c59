"""The built-in pairs: one folder each, with a framework-free ``spec.py`` and its twins.

A twin is a module with the subclass, named after the folder (``linear`` holds ``Linear``), and
`name_map`, which says where in the framework's model each neutral parameter lives.
"""
