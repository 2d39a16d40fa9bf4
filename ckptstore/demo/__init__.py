"""Kill a training run in the middle of a save, then resume it bit for bit.

Run it as ``python -m ckptstore.demo [RUN_DIR_OR_URL]``.  A small classifier learns the digits
bundled with scikit-learn, three times, each time in its own processes:

* *uninterrupted*: from the first step to the last;
* *resumed*: killed by SIGKILL in the middle of a save, then restarted by ``Manager.load_or_init``;
* *naive*: killed likewise, but only its parameters are restored and ``optimizer.init`` is called
  again, so Adam's moments are lost and the learning rate schedule starts over.

The exit status is 1 if the resumed run differs from the uninterrupted one in a single bit.
"""
