"""One trial: a training run in a fresh process under guard, from a request to an outcome.

``request`` says what is to be done and what a trial reports, ``execution`` does it, ``process`` runs it in a process
of its own that a fork server (``fork_server``) starts in a fraction of a second.
"""
