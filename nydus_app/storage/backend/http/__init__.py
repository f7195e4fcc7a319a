"""What all backends that speak HTTP share.

    open_reader ─► Retrying ─► HttpReader ─► HttpClient ─► routes: proxy, mirrors, the origin ─► Pool ─► Connection

Nothing here needs a running loop but what is awaited, and nothing is connected before the first read.
"""
