"""Bad input of every kind, in one table: one sentence, exit code 2, and nothing changed on disk.

Each row is a command line and a word that its sentence must hold, usually the value that was wrong. `{text}` is a
folder with a small text, `{run}` a run that was stopped, in a copy of its own that the row may have damaged first.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsernn.cli.app import app

EARLIER = Path(__file__).parent / "runs" / "earlier_run"

LANGUAGE = "demo/selfish task.corpus={{name:folder}} --data {text}"
MISSING = ("", "no-such-place")


def settings(recipe: str, **wrong: str) -> list[tuple[str, str]]:
    """A row for each value: `setting="a | b"` means setting=a and setting=b; what is quoted may follow ` : `."""
    rows = []
    for setting, values in wrong.items():
        for value in values.split(" | "):
            given, _, quoted = value.partition(" : ")
            rows.append((f"train {recipe} {setting.replace('__', '.')}={given}", quoted or given))
    return rows


TOP = settings(
    LANGUAGE,
    epochs="0 | -1 | 1.5 | abc | true : True | [1] : [1] | {{a:1}} : a",
    seed="-1 | 1.5 | abc | true : True",
    clip_over="nothing | 1 | true : True | [all] : all",
    precision="half | float16 | 16 | true : True | [bfloat16] : bfloat16 | tf32",
    log="nothing | tensorboad : tensorboard | 3 | true : True | [tensorboard,tensorboard] : repetitions"
    " | [tensorboard,nothing] : nothing | {{name:wandb}} : wandb",
    cuda_graphs="yes | 1 | true : cuda_graphs",
    clip="0 | -1 | abc | true : True | {{norm:-1}} : -1 | {{value:0}} : 0 | {{size:1}} : size | .inf : inf",
    log_every="0 | -5 | 1.5 | abc",
    checkpoint_seconds="-1 | abc",
    threads="0 | -2 | 1.5 | abc | 99999999999999999999 : 99999999999999999999",
    optimiser="sgd : optimiser",
    epoch="3 : epoch",
    task="nothing : nothing",
    model="nothing : nothing",
    optimizer="nothing : optimizer.lr",
    sparsity="nothing : nothing | 3 : 3",
    boundary="nothing : nothing",
)
OPTIMIZER = settings(
    LANGUAGE,
    optimizer__lr="0 | -1 | .nan : nan | .inf : inf | abc | true : True | null : None | {{name:nothing}} : nothing"
    " | {{name:cosine}} : cosine",
    optimizer__nonmono="0 | -1 | abc",
    optimizer__weight_decay="-1 | abc | .nan : nan",
    optimizer__switch_epoch="-1 | abc",
    optimizer__momentum="0.9 : momentum",
    optimizer="{{name:adam,lr:1,betas:[.9]}} : betas | {{name:adam,lr:1,betas:[.9,.99,.5]}} : betas"
    " | {{name:adam,lr:1,capturable:true}} : capturable | {{name:adam,lr:1,differentiable:true}} : differentiable"
    " | {{name:sgd,lr:1,momentum:-1}} : -1 | {{name:adam,lr:1,betas:3}} : 3 | {{name:adam,lr:1,eps:-1}} : -1"
    " | {{name:rmsprop,lr:1,alpha:-1}} : -1 | {{lr:1,name:adadelta,rho:2}} : 2",
)
SPARSITY = settings(
    LANGUAGE,
    sparsity__density="0 | 1.3 | -0.1 | .nan : nan | abc | true : True | null : density | [0.1] : 0.1",
    sparsity__sparsity="0.5 : sparsity",
    sparsity__prune_rate="2 | -0.1 | abc | .nan : nan | {{name:nothing}} : nothing",
    sparsity__grow="nothing | 3",
    sparsity__prune="nothing | 3",
    sparsity__init="nothing | 3",
    sparsity__redistribute="nothing | true : True",
    sparsity__gate_scope="nothing | 1",
    sparsity__anneal="nothing",
    sparsity__update="{{every:-1}} : -1 | {{every:1.5}} : 1.5 | {{unit:minute}} : minute | {{stop:2}} : 2"
    " | {{each:1}} : each",
    sparsity__block="[0,1] : 0 | [2] : 2 | abc | [1.5,1] : 1.5",
    sparsity__include="[nothing] : nothing | abc | [1] : 1",
    sparsity__exclude="[nothing] : nothing",
    sparsity__densities="{{nothing:0.1}} : nothing | {{'*':2}} : 2 | 3",
    sparsity__rescale="nothing",
    sparsity__momentum_beta="1 | -1 | abc",
    sparsity__tau="0 | -1 | abc",
    sparsity__regrow_init="nothing",
    sparsity__state_at_growth="nothing",
    sparsity__densty="0.3 : densty",
    sparsity="{{name:iss}} : strength | {{name:iss,strength:-1}} : -1 | {{name:iss,strength:abc}} : abc"
    " | {{name:iss,strength:1,mode:nothing}} : nothing | {{name:iss,strength:1,threshold:-1}} : -1"
    " | {{name:iss,strength:1,group_by:nothing}} : nothing | {{name:l1,strength:.nan}} : nan"
    " | {{name:l1,strength:1,include:[nothing]}} : nothing | {{name:together,of:[]}} : []"
    " | {{name:together,of:[{{name:nothing}}]}} : nothing | {{name:rigl}} : density",
)
MODEL = settings(
    LANGUAGE,
    model__embedding_size="0 | -3 | 1.5 | abc | true : True",
    model__hidden_sizes="[] : [] | [0] : 0 | [-1] : -1 | [1.5] : 1.5 | abc | 12 | [true] : True",
    model__layer="nothing | {{name:lstm,weight_drop:1.5}} : 1.5 | {{name:lstm,weight_drop:-1}} : -1"
    " | {{name:rhn,depth:0}} : 0 | {{name:onlstm,chunk_size:7}} : 7 | {{name:qrnn,window:0}} : 0"
    " | {{name:lstm,product:nothing}} : nothing | {{name:lstm,product:true}} : True"
    " | {{name:block_lstm,product:sparse}} : product"
    " | {{name:lstm,width:3}} : width | {{name:elman,nonlinearity:nothing}} : nothing"
    " | {{name:elman,map:nothing}} : nothing | {{name:gru,weight_drop:2}} : 2 | {{name:block_lstm,blocks:0}} : 0",
    model__head="nothing | {{name:linear,product:nothing}} : nothing | {{name:mixture,product:sparse}} : product"
    " | {{name:mixture,experts:0}} : 0 | {{name:mixture,experts:abc}} : abc",
    model__embedding="nothing | {{name:block,strips:0}} : strips | {{name:block,blocks:0}} : 0",
    model__tied="abc | 1 | true : tied",
    model__dropout="{{hidden:1}} : 1 | {{hidden:-0.1}} : -0.1 | {{hidden:abc}} : abc"
    " | {{nothing:0.1}} : nothing | 0.5",
    model__hiden_sizes="[1] : hiden_sizes",
)
TASK = settings(
    LANGUAGE,
    task__batch_size="0 | -1 | 1.5 | abc | 100000",
    task__eval_batch_size="0 | -1 | 1.5 | abc",
    task__window="0 | -1 | 1.5 | abc",
    task__metric="nothing",
    task__corpus="nothing | {{name:folder,level:nothing}} : nothing"
    " | {{name:folder,max_vocabulary:0}} : 0"
    " | {{name:folder,min_count:-1}} : -1 | {{name:folder,order:nothing}} : nothing | {{name:folder,splits:3}} : 3"
    " | {{name:folder,level:bytes}} : byte | {{name:folder,level:byte,max_vocabulary:0}} : 0"
    " | {{name:folder,level:subword,min_count:2}} : min_count | {{name:folder,level:subword,order:up}} : order"
    " | {{name:folder,level:subword,vocabulary_from:all}} : vocabulary_from"
    " | {{name:folder,level:subword,max_vocabulary:256}} : 256"
    " | {{name:folder,level:subword,max_vocabulary:many}} : many"
    " | {{name:folder,level:subword,tokenizer:no-such.json}} : no-such.json"
    " | {{name:folder,level:subword,tokenizer:3}} : 3"
    " | {{name:folder,level:subword,max_vocabulary:300,tokenizer:a.json}} : a.json"
    " | {{name:folder,tokenizer:a.json}} : a.json | {{name:file,level:subword}} : subword"
    " | {{name:wikitext-103,level:char}} : level | {{name:wikitext-103,max_vocabulary:0}} : 0"
    " | {{name:wikitext-103,order:nothing}} : nothing | {{name:enwik8,level:byte}} : level"
    " | {{name:enwik8,order:nothing}} : nothing | enwik8 : no file enwik8"
    " | {{name:folder,colour:red}} : colour | {{name:python-roles}} : running text",
    task__alpha="-1 | abc",
    task__beta="-1 | abc",
    task__windows="5 : windows",
)
BOUNDARY = settings(
    LANGUAGE,
    boundary="{{name:synthetic_gradient,scale:nothing}} : nothing | {{name:synthetic,lr:1}} : Did you mean"
    " | {{name:synthetic_gradient,lr:-1}} : -1 | {{name:alternating}} : base"
    " | {{name:truncate,every:2}} : every",
)
OTHERS = [
    *settings(
        "nnrnn/copy-lstm", task__delay="-1 | 1.5 | abc", task__batch_size="0", model__hidden_sizes="[0] : 0"
    ),
    *settings("nnrnn/digits-lstm task.images=digits", task__permuted="3 | abc", task__batch_size="0 | abc"),
    *settings(
        "series/vowels-dense task.corpus={{name:table,path:{text}/rows.csv,target:kind,group:id}}",
        task__goal="nothing | 3 : 3",
        task__horizon="0 | abc | 2 : 2",
        task__longest="0 | 3 : 3",
        task__per="nothing | series : series",
        task__batch_size="0 | abc",
        task__corpus="nothing | {{target:nothing}} : nothing | {{columns:[nothing]}} : nothing | {{columns:x}} : x"
        " | {{group:nothing}} : nothing | {{time:kind}} : kind | {{missing:nothing}} : nothing"
        " | {{split:nothing}} : nothing | {{split:time}} : time | {{shares:[1,2]}} : [1, 2]"
        " | {{separator:pipe}} : pipe | {{columns:[kind,x],target:y}} : line 2 | {{path:no-such.csv}} : no-such.csv"
        " | {{path:a.xlsx}} : .xlsx",
    ),
    ("train series/vowels-dense --data no-such-place", "no-such-place"),
    *settings(
        "pos/embedded", task__batch_size="0 | abc", model__hidden_size="0 | abc", task__dropout="3 : dropout"
    ),
]
COMMANDS = [
    ("train", "NAME_OR_FILE"),
    ("train no/such-recipe", "no/such-recipe"),
    ("train selfish/lstm-ptbb", "Did you mean"),
    ("train {text}/train.txt", "train.txt"),
    ("train no-such-file.yaml", "no-such-file.yaml"),
    (f"train {LANGUAGE} epochs", "epochs"),
    (f"train {LANGUAGE} =3", "=3"),
    (f"train {LANGUAGE} epochs=[", "epochs=["),
    (f"train {LANGUAGE} .epochs=3", ".epochs"),
    (f"train {LANGUAGE} clip.a.b=3", "clip"),
    (f"train {LANGUAGE} --out {{run}}", "already holds a run"),
    ("train demo/selfish task.corpus={{name:folder}} --data no-such-place", "no-such-place"),
    ("train demo/selfish task.corpus={{name:folder}} --data {text}/train.txt", "train.txt"),
    ("recipes show nothing", "nothing"),
    ("recipes copy nothing", "nothing"),
    ("recipes copy demo/dense {text}/train.txt", "train.txt"),
    ("data check no-such-place", "no-such-place"),
    ("data get nothing", "nothing"),
    ("report", "RUN"),
    ("compare", "RUN"),
    ("nothing", "nothing"),
    ("evaluate {run} --split nothing --data {text}", "nothing"),
    ("evaluate {run} --batch-size 0", "--batch-size"),
    ("evaluate {run} --batch-size abc", "--batch-size"),
    ("evaluate {run} --pointer --dynamic", "dynamic"),
    ("evaluate {run} --theta 1", "theta"),
    ("evaluate {run} --pointer --mixing 2", "--mixing"),
    ("evaluate {run} --pointer --window 0", "0"),
    ("evaluate {run} --dynamic --lr -1", "-1"),
    ("evaluate {run} --pointer --preset nothing", "nothing"),
    ("evaluate {run} --data no-such-place", "no-such-place"),
    (f"train {LANGUAGE} --precision half", "half"),
    (f"train {LANGUAGE} --log nothing", "nothing"),
    (f"train {LANGUAGE} --log tensorboard --log tensorboard", "repetitions"),
    (f"train {LANGUAGE} --device tpu", "tpu"),
    (f"train {LANGUAGE} precision=bfloat16 model.layer={{{{name:lstm,product:sparse}}}}", "product: sparse"),
    ("train awd/lstm-enwik8 --data no-such-place", "no-such-place"),
    ("train awd/lstm-enwik8 --data {text}", "no file enwik8"),
    ("train awd/lstm-enwik8 --data {text}/short", "3 bytes"),
    ("train awd/qrnn-wt103 --data no-such-place", "no-such-place"),
    ("train awd/qrnn-wt103 --data {text}/train.txt", "train.txt"),
    ("data numbered nothing", "nothing"),
    ("data clear nothing", "nothing"),
    ("finetune {run} --data {text} --log nothing", "nothing"),
    ("finetune {run} --data {text} --precision half", "half"),
    ("sweep demo/dense optimizer.lr=1,2 --log nothing", "nothing"),
    ("results", "FOLDER"),
    ("results no-such-place", "no-such-place"),
    ("results {text}", "holds no run"),
    ("results {run} --page no-such.md", "no-such.md"),
    ("results {run} --page {text}/train.txt", "train.txt"),
    ("results {run} --page {text}", "there is no page"),
    ("results {run} --keep {text}/rows.csv", "line 1"),
    ("results {run} --keep {text}", "--keep"),
    ("results {run} --keep no-such-place/a.jsonl", "no-such-place"),
    ("results {run} --figure a.svg", "a.svg"),
    ("results {run} --keep a.jsonl --figure a.svg", "a.svg"),
    ("results {run} --figure no-such-place/a.svg", "no-such-place"),
    ("export {run} --format tflite", "tflite"),
    ("export {run} --out a.tflite", "a.tflite"),
    ("export {run} --format onnx --out a.pt2", "a.pt2"),
    ("export {run} --graph nothing", "nothing"),
    ("export {run} --format c --graph sequence", "--graph"),
    ("export {run} --format c --opset 18", "--opset"),
    ("export {run} --format pt2 --opset 18", "opset"),
    ("export {run} --format onnx --opset 12", "12"),
    ("export {run} --format onnx --graph sequence --opset 24", "24"),
    ("export {run} --opset abc", "--opset"),
    ("export {run} --int8", "--int8"),
    ("export {run} --format onnx --int4 --graph sequence", "--graph"),
    ("export {run} --format pt2 --int8", "--int8"),
    ("export {run} --format pt2 --int4", "--int4"),
    ("export {run} --format c --int4 --int8", "--int8"),
    ("export {run} --name a", "--name"),
    ("export {run} --format c --name 3x", "3x"),
    ("export {run} --format c --name for", "for"),
    ("export {run} --format c --name class", "class"),
    ("export {run} --calibrate", "--calibrate"),
    ("export {run} --format c --calibrate", "--calibrate"),
    ("export {run} --format c --int8 --calibrate --data no-such-place", "no-such-place"),
    ("pack {run} --calibrate", "--calibrate"),
    ("pack {run} --values float32 --calibrate", "--calibrate"),
    ("pack {run} --values int8 --calibrate --data no-such-place", "no-such-place"),
    ("prune {run} --data {text} --density 2", "2"),
    ("prune {run} --data {text} --density 0.5 --method nothing", "nothing"),
    ("prune {run} --data {text} --density 0.5 --block 3", "3"),
    ("generate {run} --tokens 0", "--tokens"),
    ("generate {run} --temperature -1", "--temperature"),
    ("generate {run} --seed -1", "--seed"),
    ("pack {run} --values int3", "int3"),
    ("bench {run} --batch-size 0", "0"),
    ("bench {run} --batch-size abc", "abc"),
    ("bench {run} --batch-size 99", "99"),
    ("bench {run} --repeats 0", "--repeats"),
    ("compact {run} --criterion nothing", "nothing"),
    ("compact {run} --tol -1", "--tol"),
    ("finetune {run} epochs=0 --data {text}", "0"),
    ("answer {run} --paragraph a --question b", "answers no questions"),
    ("predict {run} {text}/rows.csv", "a run of series"),
    ("predict {run}", "FILE"),
    ("predict {run} {text}/rows.csv --out no-such-place/a.csv", "no-such-place"),
    ("report {run} --out {text}/train.txt/x", "train.txt"),
    ("sweep", "recipe"),
    ("sweep demo/dense", "nothing to try"),
    ("sweep demo/dense optimizer.lr=uniform(1,2) --search 0", "trials is 0"),
    ("sweep demo/dense optimizer.lr=uniform(1,2) --trials 0", "trials is 0"),
    ("sweep demo/dense optimizer.lr=[]", "optimizer.lr"),
    ("sweep --join sqlite:///{text}/none.db", "none.db"),
]
READERS = (
    "evaluate",
    "generate",
    "pack",
    "export",
    "bench",
    "compact",
    "resume",
    "finetune",
    "inspect",
    "report",
    "compare",
)


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[: (run / name).stat().st_size // 2])


def _replace(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content)


def _flip(name: str) -> Callable[[Path], None]:
    def flip(run: Path) -> None:
        held = bytearray((run / name).read_bytes())
        held[-40] ^= 0xFF
        (run / name).write_bytes(bytes(held))

    return flip


def _remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def _swap(run: Path) -> None:
    shutil.copyfile(run / "best.safetensors", run / "last.safetensors")


def _environment(run: Path) -> None:
    known = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    (run / "environment.json").write_text(json.dumps({**known, "data": 3}), encoding="utf-8")


WEIGHTS = {
    "last cut short": (_truncate("last.safetensors"), "last.safetensors"),
    "last is text": (_replace("last.safetensors", b"hello"), "last.safetensors"),
    "last with a flipped byte": (_flip("last.safetensors"), "last.safetensors"),
    "best over last": (_swap, "last.safetensors"),
    "best cut short": (_truncate("best.safetensors"), "best.safetensors"),
    "best is empty": (_replace("best.safetensors", b""), "best.safetensors"),
    "best with a flipped byte": (_flip("best.safetensors"), "best.safetensors"),
    "no best": (_remove("best.safetensors"), "best.safetensors"),
    "no vocabulary": (_remove("vocabulary.txt"), "vocabulary.txt"),
    "another vocabulary": (_replace("vocabulary.txt", b"a\nb\nc\n"), "vocabulary.txt"),
    "no environment": (_remove("environment.json"), "environment.json"),
    "environment is no JSON": (_replace("environment.json", b"{"), "environment.json"),
    "environment of another shape": (_environment, "environment.json"),
    "recipe is no YAML": (_replace("recipe.yaml", b"a: [\n"), "recipe.yaml"),
    "recipe is a list": (_replace("recipe.yaml", b"[1, 2]\n"), "recipe.yaml"),
    "recipe without a model": (_replace("recipe.yaml", b"name: x\ntask: language_modelling\n"), "model"),
}
WHO_READS = {"last": ("resume",), "best": ("evaluate", "generate", "pack", "export", "compact", "finetune")}
PLAIN = [*TOP, *OPTIMIZER, *SPARSITY, *MODEL, *TASK, *BOUNDARY, *OTHERS, *COMMANDS]
PLAIN += [(f"{reader} no-such-place", "no-such-place") for reader in READERS]
PLAIN += [(f"{reader} {{text}}", "") for reader in READERS]
PLAIN += [(f"{reader} {{text}}/train.txt", "train.txt") for reader in READERS]
DAMAGED = [
    (f"{reader} {{run}} --data {{text}}", damage, WEIGHTS[damage][1])
    for damage in WEIGHTS
    for reader in WHO_READS.get(damage.split()[-1], ())
    or (WHO_READS["last"] if damage.startswith("last") else WHO_READS["best"])
]


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    folder = shutil.copytree(EARLIER / "text", tmp_path_factory.mktemp("bad") / "text")
    rows = [f"{k // 3},{k},{2 * k},{'ab'[k // 3 % 2]}" for k in range(30)]
    (folder / "rows.csv").write_text("\n".join(["id,x,y,kind", *rows]) + "\n", encoding="utf-8")
    (folder / "short").write_text("abc", encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(EARLIER / "run", tmp_path / "run")


def fingerprint(*folders: Path) -> str:
    """A hash of all files below some folders: names and contents."""
    seen = hashlib.sha256()
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        seen.update(str(path).encode() + path.read_bytes())
    return seen.hexdigest()


def spelt_out(word: str) -> str:
    """A word of the table as YAML has it: a space after the colons of a mapping."""
    return (
        re.sub(r"(?<=[\w'])[:,](?=[\w.{'\[-])", lambda found: found[0] + " ", word) if "={{" in word else word
    )


def check(line: str, said: str, text: Path, run: Path, here: Path) -> None:
    """Give the command line, and see that it is refused as all bad input is."""
    words = [spelt_out(word).format(text=text, run=run) for word in line.split()]
    before = fingerprint(here, text)
    result = CliRunner().invoke(app, words, prog_name="sparsernn")
    assert result.exit_code == 2, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    complaint = result.stderr.strip()
    assert said in complaint, complaint
    if not complaint.startswith("Usage"):  # a line that the command's own help explains
        assert len(complaint.splitlines()) == 1, complaint
        assert complaint.startswith("sparsernn: ")
        assert len(complaint) < 600
    assert fingerprint(here, text) == before, "something was written"


@pytest.mark.parametrize(("line", "said"), PLAIN, ids=[line for line, _ in PLAIN])
def test_bad_input_is_one_sentence(line, said, text, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(line, said, text, run, tmp_path)


@pytest.mark.parametrize(("line", "damage", "said"), DAMAGED, ids=[f"{d}: {line}" for line, d, _ in DAMAGED])
def test_a_damaged_run_is_one_sentence(line, damage, said, text, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WEIGHTS[damage][0](run)
    check(line, said, text, run, tmp_path)


def test_the_table_is_long():
    assert len(PLAIN) + len(DAMAGED) >= 300
