"""Models of real size, with random weights, from the command line to the errors.

    python -m benchmarks.rehearsal --model sd2

Writes Stable Diffusion 2, DiT-XL/2 or Stable Diffusion XL from the published configs
(sharded safetensors, a float16 variant, the vocabulary of CLIP from open_clip) after a
check of the published numbers of weights. Then ``diffusion-sklearn classify`` reads 4
photos at the model's own resolution, with 3 classes and 4 trials: the process is killed
in the middle of a forward pass, and a second one goes on with the errors in ``memory``.
Errors of the first photo are compared with those of a plain loop over the modules of
diffusers. Printed are the seconds and the peak memory of loading, encoding and
evaluating, and the fraction of the rate of a large matrix product.

On a CPU, Stable Diffusion XL takes 2 photos and 2 trials, and weights are float32 where
they take less than half of the available memory, else bfloat16. On a GPU the package
chooses. ``--keep FOLDER`` keeps the models for another run. ``--size tiny`` has the
same layout with few channels, and needs no open_clip.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._common import ROOT, describe_machine, make_parser, write
from benchmarks._published import (
    CLASS_NAMES,
    MODELS,
    TINY_IMAGE_SIZE,
    config_of,
    count_weights,
    make_part,
    write_model,
)
from benchmarks.speed.gpu import matrix_rate
from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ErrorStore,
    ZeroShotDiffusionClassifier,
    clear_cache,
    load_backbone,
)
from diffusion_sklearn.backbones._families import families
from diffusion_sklearn.cli import main as command_line

NAMES = ["flower", "palace", "teapot"]
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
"""Of an error, relative: half precision rounds in another way in another batch."""

GIB = 2**30


def image_size_of(model, size):
    return MODELS[model]["image_size"] if size == "real" else TINY_IMAGE_SIZE


def classes_of(model):
    return [name.split(",")[0] for name in CLASS_NAMES] if model == "dit" else NAMES


def write_photos(folder, n, side):
    """Two photos of scikit-learn's, whole and in parts.

    The first has the model's own size, so that no resizing stands between its pixels
    and the plain loop.
    """
    folder.mkdir()
    china, flower = map(Image.fromarray, load_sample_images().images)
    photos = [flower.crop((107, 0, 533, 427)).resize((side, side)), china]
    photos += [flower, china.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for k, photo in enumerate(photos[:n]):
        photo.save(folder / f"{k}.png")


def write_variant(folder, variant):
    """The same model with the weights in float16 alone, by hard links."""
    for path in folder.rglob("*.*"):
        if ".safetensors" in path.name and "fp16" not in path.name:
            continue
        target = variant / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)


def teraflops(model, size):
    """Trillions of floating-point operations of an evaluation."""
    network = MODELS[model]["network"]
    config, side = config_of(model, network, size), image_size_of(model, size) // 8
    with torch.device("meta"):
        module = make_part(*MODELS[model]["index"][network], config)
        noised, t = torch.empty(1, 4, side, side), torch.zeros(1, dtype=torch.int64)
        inputs = {"class_labels": t}
        if network == "unet":
            width = config["cross_attention_dim"]
            inputs = {"encoder_hidden_states": torch.empty(1, 77, width)}
        if model == "sdxl":
            width = config_of(model, "text_encoder_2", size)["projection_dim"]
            added = {"text_embeds": torch.empty(1, width), "time_ids": torch.ones(1, 6)}
            inputs["added_cond_kwargs"] = added
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(noised, timestep=t, **inputs)
    return counter.get_total_flops() / 1e12


def available_memory():
    """Bytes that this process may still take, as Linux estimates them."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvail"))


def take_peak():
    """Peak memory of this process since the last call, and of the GPU, in GiB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    peak = next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 2**20
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # starts anew
    on_gpu = None
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        on_gpu = torch.cuda.max_memory_allocated() / GIB
        torch.cuda.reset_peak_memory_stats()
    return {"peak": peak, "gpu_peak": on_gpu}


# Each of the following runs in a process of its own, whose memory is its own too.


def build(folder, model, size):
    write_model(model, Path(folder), size, "1GB" if size == "real" else "20KB")


def classify(model, arguments, report, killed_at):
    """Run the command line; report each call of the model; die in a forward pass."""
    cls = families()[MODELS[model]["index"]["_class_name"]]
    file, n_passes, began = Path(report).open("w", encoding="utf-8"), 0, time.time()

    def tell(stage, seconds, rows):
        line = {"stage": stage, "seconds": seconds, "rows": rows, **take_peak()}
        print(json.dumps(line), file=file, flush=True)

    def watch(name):
        method = getattr(cls, name)

        def watched(self, first, *more):
            nonlocal n_passes
            if name == "condition":
                tell("load", time.time() - began, 1)
            elif name.startswith("predict"):
                n_passes += 1
                if n_passes == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            start = time.perf_counter()
            result = method(self, first, *more)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            tell(name.split("_")[0], time.perf_counter() - start, len(first))
            return result

        setattr(cls, name, watched)

    for name in ("condition", "encode", "predict", "predict_with_variance"):
        watch(name)
    command_line(arguments)


def variant(folder, device, dtype):
    """Load a folder that has the float16 variant alone."""
    try:
        load_backbone(folder, device=device, dtype=dtype)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return {"fp16_variant": type(error).__name__}
    return {"fp16_variant": "loaded"}


def compare(model, folder, photo, memory, n_trials, device, dtype):
    """Errors of a photo: the kept ones against those of a plain loop."""
    is_dit = model == "dit"
    cls = ConditionalDiffusionClassifier if is_dit else ZeroShotDiffusionClassifier
    how = {"pruning": None, "memory": memory}
    clf = cls(model=folder, n_trials=n_trials, device=device, dtype=dtype, **how)
    clf.fit(classes=classes_of(model))
    result, backbone = clf.denoising_errors([photo]), clf.backbone_
    if result.n_evaluations.sum():
        raise AssertionError(f"{result.n_evaluations.sum()} errors were not kept.")
    if is_dit:
        conditions = [[backbone.labels[name]] for name in clf.classes_]
    else:
        conditions = clf.prompts_
    shape = backbone.latent_shape(backbone.image_size)
    noise, device = torch.from_numpy(clf.trials_.noise(shape)), backbone.device
    dtype = backbone.dtype
    del clf, backbone
    clear_cache()
    began = time.perf_counter()
    expected, seconds = plain_loop(
        model, folder, photo, conditions, result.timesteps, noise, device, dtype
    )
    difference = np.abs(result.errors[0] / expected - 1).max()
    of_classes = expected.mean(axis=1)
    apart = np.abs(of_classes[:, None] - of_classes)[np.triu_indices(3, 1)]
    if not np.abs(result.errors[0].mean(axis=1) - of_classes).max() < apart.min() / 2:
        raise AssertionError("The error of a class is nearer to that of another.")
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "difference": float(difference),
        "classes_apart": float((apart / of_classes.mean()).min()),
        "loop_seconds_per_evaluation": seconds,
        "loop_seconds": time.perf_counter() - began,
    }


@torch.no_grad()
def plain_loop(model, folder, photo, conditions, timesteps, noise, device, dtype):
    """Errors (class, trial) by the modules of diffusers, one evaluation at a time.

    And the seconds of an evaluation.
    """
    import diffusers

    cls = getattr(diffusers, MODELS[model]["index"]["_class_name"])
    pipeline = cls.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    pipeline.to(device)
    network = getattr(pipeline, MODELS[model]["network"])
    pixels = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)[None]
    pixels = pixels.to(device, torch.float32) / 127.5 - 1  # (1, 3, h, w)
    vae = pipeline.vae
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.float()
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mean.float()
    latents = latents * vae.config.scaling_factor  # (1, c, h / 8, w / 8)
    side = torch.tensor([[*[pixels.shape[-1]] * 2, 0, 0, *[pixels.shape[-1]] * 2]])
    alphas = pipeline.scheduler.alphas_cumprod.to(device)
    errors, began = [], None
    for condition in conditions:
        if model == "dit":
            inputs = {"class_labels": torch.tensor(condition, device=device)}
        else:
            embedded = pipeline.encode_prompt(
                condition,
                device=device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
            inputs = {"encoder_hidden_states": embedded[0].to(dtype)}
        if model == "sdxl":
            added = {"text_embeds": embedded[2], "time_ids": side.to(device, dtype)}
            inputs["added_cond_kwargs"] = added
        for t, eps in zip(timesteps, noise.to(device), strict=True):
            began = began or time.perf_counter()
            noised = alphas[t].sqrt() * latents + (1 - alphas[t]).sqrt() * eps
            step = torch.tensor([t], device=device)
            output = network(noised.to(dtype), timestep=step, **inputs).sample
            predicted = output[:, : latents.shape[1]].float()
            errors.append((predicted - eps).square().mean().item())
    seconds = (time.perf_counter() - began) / len(errors)
    return np.reshape(errors, (len(conditions), -1)), seconds


STAGES = {stage.__name__: stage for stage in (build, classify, variant, compare)}


def run_stage(name, **settings):
    """Run one of the functions above in a new process; its result."""
    command = [sys.executable, "-m", "benchmarks.rehearsal", "--stage", name]
    command += ["--settings", json.dumps(settings)]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if name == "classify":
        return process.returncode
    process.check_returncode()
    return json.loads(process.stdout.splitlines()[-1])


def run_command_line(arguments):
    """Run ``python -m diffusion_sklearn``; its peak memory in GiB."""
    command = [sys.executable, "-m", "diffusion_sklearn", *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss / 2**20


def rehearse(model, folder, work, args):
    """The row of a model.

    Raises
    ------
    AssertionError
        If an error was lost, computed twice, or is not that of the plain loop.
    """
    weights = count_weights(model, args.size)
    n_weights = 1e6 * sum(weights.values())
    on_gpu = torch.cuda.is_available()
    device, dtype = "cuda" if on_gpu else "cpu", args.dtype
    if dtype == "auto" and not on_gpu:
        fits = 4 * n_weights < available_memory() / 2
        dtype = "float32" if fits else "bfloat16"
    if not folder.exists():
        if 6 * n_weights > shutil.disk_usage(folder.parent).free:
            raise OSError(f"{6 * n_weights / 1e9:.0f} GB of {folder} don't fit.")
        print(f"{model}: writing {folder}", flush=True)
        run_stage("build", folder=f"{folder}.part", model=model, size=args.size)
        Path(f"{folder}.part").rename(folder)
    side = image_size_of(model, args.size)
    few = model == "sdxl" and not on_gpu  # an evaluation takes a minute
    n_photos = args.n_photos or (2 if few else 4)
    n_trials = args.n_trials or (2 if few else 4)
    write_photos(work / "photos", n_photos, side)
    n_evaluations = n_photos * 3 * n_trials
    batch = args.batch_size or (16 if on_gpu else {"sdxl": 1}.get(model, 4))
    arguments = [
        *("classify", str(work / "photos"), "--classes", *classes_of(model)),
        *("--model", str(folder), "--n-trials", str(n_trials)),
        *("--pruning", "none", "--memory", str(work / "errors")),
        *("--batch-size", str(batch), "--device", device, "--dtype", dtype),
    ]

    print(f"{model}: classifying, until it is killed", flush=True)
    killed_at = max(2, n_evaluations // batch // 2)
    status = run_stage(
        "classify",
        model=model,
        arguments=[*arguments, "--output", str(work / "killed.csv")],
        report=str(work / "report.jsonl"),
        killed_at=killed_at,
    )
    if status != -signal.SIGKILL:
        raise AssertionError(f"The process ended with {status}, and was not killed.")
    lines = (work / "report.jsonl").read_text("utf-8").splitlines()
    report = [json.loads(line) for line in lines]
    stages = {
        name: [line for line in report if line["stage"] == name]
        for name in ("load", "condition", "encode", "predict")
    }
    kept = ErrorStore(work / "errors").info()["n_evaluations"]
    if kept != sum(line["rows"] for line in stages["predict"]):
        raise AssertionError(f"{kept} evaluations were kept of {stages['predict']}.")

    print(f"{model}: resuming with {kept} of {n_evaluations} errors", flush=True)
    began = time.time()
    peak = run_command_line([*arguments, "--output", str(work / "labels.csv")])
    resume_seconds = time.time() - began
    with (work / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    done = sum(int(row["evaluations"]) for row in rows)
    if len(rows) != n_photos or kept + done != n_evaluations:
        raise AssertionError(f"{kept} evaluations were kept and {done} done again.")

    print(f"{model}: comparing with a plain loop", flush=True)
    same = run_stage(
        "compare",
        model=model,
        folder=str(folder),
        photo=str(work / "photos" / "0.png"),
        memory=str(work / "errors"),
        n_trials=n_trials,
        device=device,
        dtype=dtype,
    )
    tolerance = TOLERANCE[same["dtype"]]
    if not same["difference"] <= tolerance:
        raise AssertionError(f"The errors differ by {same['difference']:.2g}.")
    (work / "fp16").mkdir()
    write_variant(folder, work / "fp16" / folder.name)
    loaded = run_stage(
        "variant", folder=str(work / "fp16" / folder.name), device=device, dtype=dtype
    )

    passes = stages["predict"][1:] or stages["predict"]  # the first warms up
    seconds = float(np.median([line["seconds"] / line["rows"] for line in passes]))
    flop = teraflops(model, args.size)
    n_side = (8192 if on_gpu else 2048) if args.size == "real" else 256
    rate = matrix_rate(torch.device(device), getattr(torch, same["dtype"]), n_side)
    row = {
        "model": MODELS[model]["name"],
        "size": args.size,
        "image_size": side,
        "millions_of_weights": n_weights / 1e6,
        "parts": weights,
        "gib_on_disk": sum(p.stat().st_size for p in folder.rglob("*.*")) / GIB,
        "n_photos": n_photos,
        "n_trials": n_trials,
        "batch": batch,
        "kept": kept,
        "resumed": done,
        "resume_seconds": resume_seconds,
        "resume_peak": peak,
        "seconds_per_evaluation": seconds,
        "evaluations_per_second": 1 / seconds,
        "tflop_per_evaluation": flop,
        "fraction_of_matrix_rate": 1e12 * flop / seconds / rate,
        "tolerance": tolerance,
        **same,
        **loaded,
    }
    for name, calls in stages.items():
        row[f"{name}_seconds"] = calls[0]["seconds"]
        for key in ("peak", "gpu_peak"):
            values = [line[key] for line in calls]
            row[f"{name}_{key}"] = None if values[0] is None else max(values)
    return row


def print_row(row):
    print(
        f"{row['model']}, {row['size']} size, {row['dtype']}, {row['image_size']} "
        f"pixels: {row['millions_of_weights']:,.1f} million weights, "
        f"{row['gib_on_disk']:.1f} GiB on disk"
    )
    for name in ("load", "condition", "encode", "predict"):
        on_gpu = row[f"{name}_gpu_peak"]
        print(
            f"  {name:<10}{row[f'{name}_seconds']:>8.1f} s, peak "
            f"{row[f'{name}_peak']:.1f} GiB"
            + ("" if on_gpu is None else f", on the GPU {on_gpu:.1f} GiB")
        )
    print(
        f"  {row['seconds_per_evaluation']:.3g} s an evaluation, "
        f"{row['evaluations_per_second']:.3g} evaluations / s, "
        f"{row['fraction_of_matrix_rate']:.0%} of the matrix rate; plain loop "
        f"{row['loop_seconds_per_evaluation']:.3g} s\n"
        f"  killed with {row['kept']} errors kept, {row['resumed']} more after that; "
        f"peak {row['resume_peak']:.1f} GiB\n"
        f"  errors differ from the plain loop by {row['difference']:.1e} "
        f"(tolerance {row['tolerance']:.0e}; classes {row['classes_apart']:.1e})\n"
        f"  folder with the fp16 variant alone: {row['fp16_variant']}",
        flush=True,
    )


def main():
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", nargs="+", choices=MODELS, default=["dit", "sd2", "sdxl"]
    )
    parser.add_argument("--size", choices=["real", "tiny"], default="real")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of the models")
    parser.add_argument("--n-photos", type=int, choices=range(1, 5))
    parser.add_argument("--n-trials", type=int)
    parser.add_argument("--batch-size", type=int, help="rows a forward pass")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(STAGES[args.stage](**args.settings)))
        return
    if args.quick:
        args.n_photos, args.n_trials = 2, 2
    if args.json is None and args.size == "real" and not args.quick:
        args.json = ROOT / "benchmarks" / "results" / "speed" / "rehearsal.json"
    before = {
        "memory_gib": round(available_memory() / GIB, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "note": "other processes may have shared the machine: seconds are upper bounds",
    }
    print(f"{args.size} size, {before['memory_gib']} GiB free; {describe_machine()}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in args.model:
            models = args.keep or Path(folder, "models")
            models.mkdir(parents=True, exist_ok=True)
            work = Path(folder, model)
            work.mkdir()
            rows.append(rehearse(model, models / f"{model}-{args.size}", work, args))
            print_row(rows[-1])
            if not args.keep:
                shutil.rmtree(models)
            if args.json is not None:
                write(__file__, args, rows, **before)


if __name__ == "__main__":
    main()
