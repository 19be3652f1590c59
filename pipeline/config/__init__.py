"""The schema of every config group, and its checks; not the values, which live in ``conf``.

A group whose options share one set of keys is a dataclass. A group that grows by adding files
(data, model, loss, optimizer, schedule) has its common keys in `schema` and the keys of each option
in the signature of the function it names, which `signatures` reads. So an optimizer is one function
and one YAML, and a key that no function knows is refused.
"""
