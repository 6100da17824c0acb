"""The paper's table: what a file may say (``table``), reading it (``yaml_reader``), its graph (``frontend``)."""
