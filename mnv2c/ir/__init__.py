"""The graph IR: its ops (``graph``), what must hold (``verifier``), text (``printer``), meaning (``interpreter``)."""
