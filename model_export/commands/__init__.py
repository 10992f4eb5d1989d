"""The commands of ``ecenet-export``, a module each: ``add_parser`` describes it, and its ``run`` does the work.

What a command needs beyond the standard library is imported when it runs, so that ``--help`` is quick.
"""
