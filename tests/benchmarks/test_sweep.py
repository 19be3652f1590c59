"""A sweep of the article's experiment against the way people write it today, in one run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

OURS, THEIRS = 200, 20  # runs of each; both rates count everything from start to end

NAIVE = """
    import hydra, matplotlib, mlflow, numpy as np, torch
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    @hydra.main(version_base="1.3", config_path=None, config_name=None)
    def main(cfg):
        torch.set_num_threads(1)
        rng = np.random.default_rng(0)
        x = rng.uniform(-10, 10, (200, 1)).astype(np.float32)
        y = (0.1 * x + 0.3 + 0.15 * rng.normal(size=x.shape)).astype(np.float32)
        x, y = torch.tensor(x), torch.tensor(y)
        w, b = (torch.tensor(v, requires_grad=True) for v in (0.05, -0.05))
        mlflow.set_tracking_uri("sqlite:///naive.db")
        with mlflow.start_run():
            mlflow.log_params({"lr": cfg.lr, "steps": 500})
            losses = []
            for step in range(500):
                loss = torch.mean(torch.square(x * w + b - y))
                loss.backward()
                with torch.no_grad():
                    w -= cfg.lr * w.grad
                    b -= cfg.lr * b.grad
                w.grad = b.grad = None
                losses.append(loss.item())
                mlflow.log_metric("loss", losses[-1], step=step)
            figure = plt.figure()
            plt.plot(losses)
            mlflow.log_figure(figure, "loss.png")
            plt.close(figure)

    main()
"""


def rate(command, runs, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return runs / (time.perf_counter() - start)


def test_a_sweep_against_the_usual_way(benchmark, tmp_path):
    """At least 6 times as many runs a second, on two cores."""
    (tmp_path / "naive.py").write_text(textwrap.dedent(NAIVE))

    def lrs(n):
        return ",".join(f"{1e-3 * (1 + i / n):.6f}" for i in range(n))

    ours = rate(
        [sys.executable, "-m", "pipeline", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
         "experiment=article", "backend=torch", f"optimizer.lr={lrs(OURS)}", "tracking.model=false",
         "sweep.rerun=true"],
        OURS, tmp_path,
    )  # fmt: skip
    theirs = rate([sys.executable, "naive.py", "-m", f"+lr={lrs(THEIRS)}"], THEIRS, tmp_path)
    print(f"\n{ours:.2f} runs a second against {theirs:.2f}: {ours / theirs:.1f} times")
    benchmark.extra_info["ratio"] = ours / theirs
    benchmark.pedantic(lambda: None, rounds=1)
    assert ours / theirs >= 6
