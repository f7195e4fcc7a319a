"""The only place where the configuration tree becomes objects.

    Tree ─► open_image()       a mapped bootstrap, caches and a backend      image.py, caches.py, backends.py
         ├► open_filesystem()  the same as a FileSystem
         ├► attach()           how it comes to a mountpoint                  attachment.py
         └► serve()            the same, mounted by a daemon, with its API   daemon.py

Everything that is light is imported at the top; what a start can do without (the API's web stack, the
second codec) is imported where it is first used.
"""
