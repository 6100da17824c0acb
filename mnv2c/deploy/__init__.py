"""Built libraries: what one says of itself (``manifest``), and running it here, in qemu or over ssh (``opening``)."""
