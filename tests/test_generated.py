import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    protos = [str(file.relative_to(ROOT / "protos")) for file in sorted((ROOT / "protos/thecloud/v1").glob("*.proto"))]
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    descriptors = tmp_path / "thecloud/v1/descriptors.binpb"
    descriptors.parent.mkdir(parents=True)
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    run = {"cwd": ROOT / "protos", "check": True}
    subprocess.run([*protoc, *outputs, *protos], **run)  # type: ignore[call-overload]
    subprocess.run(  # type: ignore[call-overload]
        [*protoc, "--include_source_info", f"--descriptor_set_out={descriptors}", *protos], **run
    )
    committed = {file.name: file.read_bytes() for file in (ROOT / "generated/thecloud/v1").iterdir() if file.is_file()}
    made = {file.name: file.read_bytes() for file in descriptors.parent.iterdir()}
    assert {name for name in committed if committed[name] != made.get(name)} == set(), "run `make gen`"
