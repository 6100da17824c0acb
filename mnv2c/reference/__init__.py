"""The reference: the graph as ONNX before any pass (``onnx_export``), and what runs it (``evaluator``)."""
