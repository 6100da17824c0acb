"""Numbers about a built library: is it right (``validate``), is it fast (``bench``), what is in it (``report``)?"""
