"""Nothing, in place of a grammar that Ray's processes need not build.

Ray imports jsonschema, and jsonschema, where it can, this package: two seconds of work
to check the syntax of IRIs, in each of Ray's half dozen processes at once. On a busy
machine they then miss the 15 seconds in which Ray wants them up: with a load of 14 on
two cores, two of two starts failed without this folder, one of two with it. With this
folder on PYTHONPATH, where `helpers.parallel` puts it, jsonschema does without.
"""

raise ImportError("left out for Ray's processes, see helpers.parallel")
