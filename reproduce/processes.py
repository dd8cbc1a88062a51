"""Many small fits, each in a thread of its own: cells of a table, computed in any order.

A cell is a tuple; what is computed of it, {name: number}, is kept as soon as it is there and
taken up after an interruption (see `experiment.Run.once`).
"""

import concurrent.futures
import inspect
import multiprocessing
import os

import tensorflow as tf
from experiment import read_result, write_result

from deen_tf.checks import whole


def evaluate_all(run, evaluate, cells, jobs):
    """Return [evaluate(*cell) of every cell], of which a run before has left some.

    Parameters
    ----------
    run : Run
    evaluate : function
        Of a script's top level. The settings and the script's code decide its answers.
    cells : list of tuples
    jobs : int
        Processes at once.

    Returns
    -------
    list of dict
    """
    function = getattr(evaluate, "func", evaluate)  # of a functools.partial
    file = inspect.getsourcefile(function)
    paths = [run.result_path("-".join(map(str, cell)), file) for cell in cells]
    answers = {path: read_result(path) for path in paths}
    # Read by the children, when they import NumPy.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    pool = concurrent.futures.ProcessPoolExecutor(
        whole(jobs, "--jobs"),
        multiprocessing.get_context("spawn"),
        initializer=one_core,
    )
    try:
        futures = {
            pool.submit(evaluate, *cell): path
            for cell, path in zip(cells, paths, strict=True)
            if answers[path] is None
        }
        done = concurrent.futures.as_completed(futures)
        for future in run.each(done, unit="cell", total=len(futures)):
            write_result(futures[future], future.result())
            answers[futures[future]] = future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [answers[path] for path in paths]


def one_core():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
