"""The stages between a kernel program and the sink.

    ring buffers ─┐
                  ├─ RecordBatch → bounded queue → stamp, encode, split → MessageBatch → sink
    flow tables ──┘

A slow sink makes ``send`` wait, which fills the queue, which stops the readers;
then the kernel's buffers fill and the kernel counts what it loses.
"""
