"""What a trial costs in memory: predicted without running it, measured while it runs, and held under a cap.

    allocated   live tensor bytes, exact, on real and on fake tensors        (TensorMemory)
    predict     the real training step traced without weights or a device    (trace, Predictor)
    meter       what a process holds, as the operating system or NVML sees it (METERS)
    nvml        the door to the GPU's own library; nvml_meter decides what of it is believed
    guard       watches a process and ends it, and only it, over the cap      (Guard)
    timeline    what it held over time, in few numbers however long it ran    (Timeline)
    limit       makes an allocation over the cap fail inside the process      (limit_process)
    device      what this machine has                                         (available_device)

Nothing is imported here: a module is taken from where it stands, and the ones that need no torch stay light.
"""
