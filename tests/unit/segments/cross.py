"""Assembly of numba kernels for another processor than this one: the optimised LLVM IR, retargeted."""

from __future__ import annotations

import re
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit
from numba.core import config

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


def emit(text: str, machine: str) -> str:
    """Assembly of LLVM IR for `machine`."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLES[machine]).create_target_machine(opt=2)
    text = re.sub(r"^target triple = .*$", f'target triple = "{TRIPLES[machine]}"', text, flags=re.M)
    text = re.sub(r"^target datalayout = .*$", f'target datalayout = "{target.target_data}"', text, flags=re.M)
    text = re.sub(r'"(target-cpu|target-features|probe-stack|tune-cpu)"="[^"]*"', "", text)
    if machine == "aarch64":  # what emit_pause emits there
        text = text.replace("call void @llvm.x86.sse2.pause()", "call void @llvm.aarch64.isb(i32 15)")
        text = text.replace("declare void @llvm.x86.sse2.pause()", "declare void @llvm.aarch64.isb(i32)")
    module = llvm.parse_assembly(text)
    module.verify()
    return str(target.emit_assembly(module))


def kernel_assembly(function: Any, signature: str | tuple[Any, ...], machine: str) -> list[str]:
    """Instructions of a plain Python function compiled by numba for `signature`, without its Python wrapper."""
    kernel = njit(function)
    checks, config.BOUNDSCHECK = config.BOUNDSCHECK, 0  # what runs in production is looked at, whatever this test run checks
    try:
        kernel.compile(signature)
    finally:
        config.BOUNDSCHECK = checks
    (text,) = kernel.inspect_llvm().values()
    name = next(iter(kernel.overloads.values())).fndesc.llvm_func_name
    return body_of(emit(keep_reachable(text, name), machine), name)


def keep_reachable(text: str, name: str) -> str:
    """LLVM IR without the functions that `name` does not reach: numba's Python wrappers hold instructions of this processor."""
    blocks = re.compile(r"^define .*?^}\n", re.M | re.S)
    functions = {}
    for block in blocks.findall(text):
        title = re.search(r'@("[^"]+"|[\w.$]+)\(', block)
        assert title is not None, block
        functions[title.group(1).strip('"')] = block
    reached, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += [other for other in functions if other != one and f"@{other}(" in functions[one].replace('"', "")]
    kept = "".join(functions[one] for one in functions if one in reached)
    return blocks.sub("", text) + kept


def builder_assembly(fill: Any, machine: str, result: ir.Type) -> list[str]:
    """Instructions of a function whose body `fill` writes with an LLVM builder; it takes one i64* argument."""
    module = ir.Module("cross")
    module.triple, module.data_layout = "x", "x"
    function = ir.Function(module, ir.FunctionType(result, [ir.IntType(64).as_pointer()]), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    value = fill(builder, function.args[0])
    builder.ret_void() if isinstance(result, ir.VoidType) else builder.ret(value)
    return body_of(emit(str(module), machine), "probe")


def body_of(assembly: str, name: str) -> list[str]:
    """Lines between a function's label and its end, without directives and comments."""
    lines = assembly.splitlines()
    start = next(place for place, line in enumerate(lines) if line.split("#")[0].split("//")[0].strip().strip('"').rstrip(':"') == name)
    end = next(place for place in range(start, len(lines)) if lines[place].startswith(".Lfunc_end"))
    body = [re.split(r"\s# |\s// ", line)[0].strip() for line in lines[start + 1 : end]]
    return [line for line in body if line and not line.startswith((".", "#", "//"))]
