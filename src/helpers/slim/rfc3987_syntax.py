"""Nothing, in place of a grammar that Ray's processes need not build.

Ray imports jsonschema, and jsonschema, where it can, this package: two seconds of work
to check the syntax of IRIs, in each of Ray's half dozen processes at once. On a busy
machine they then miss the 15 seconds in which Ray wants them up. With this folder on
PYTHONPATH, where `helpers.parallel` puts it for them, jsonschema goes without.
"""

raise ImportError("left out for Ray's processes, see helpers.parallel")
