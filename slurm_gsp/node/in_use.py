"""Whether Slurm has work on this node, or could give it some: asked before it is taken apart by hand."""

from __future__ import annotations

from slurm_gsp.manifest.match import NodeFacts
from slurm_gsp.manifest.nodes import parse_nodes
from slurm_gsp.node.failing import RefusedError
from slurm_gsp.parse import ParseError
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.on_node import SlurmOfNode
from slurm_gsp.slurm.scontrol import parse_node


def check_unused(client: SlurmOfNode, node: str) -> None:
    """RefusedError where a job is on the node, may be started on it, or where Slurm does not say."""
    try:
        jobs = client.jobs(node)
        state = parse_node(client.record(node))
    except (SlurmError, ValueError) as error:
        raise RefusedError([
            f"nobody can tell whether {node} has jobs: {error}",
            "put that right first: `scontrol ping` and `squeue` have to answer on this node",
        ]) from error
    if jobs:
        raise RefusedError([f"{node} has jobs ({', '.join(jobs)}): drain it and wait for their end"])
    if not state.drained:
        raise RefusedError([
            f"{node} is in service, so Slurm may start a job on it at any time; drain it first:",
            f"scontrol update nodename={node} state=drain reason=maintenance",
        ])


def facts_of(client: SlurmOfNode, node: str) -> NodeFacts:
    """What Slurm says this node is. RefusedError where it does not say."""
    try:
        return parse_nodes(client.record(node))[0]
    except (SlurmError, ParseError, ValueError) as error:
        raise RefusedError([
            f"nobody can tell which profile {node} takes: {error}",
            "name it with --profile, or put that right first: `scontrol ping` has to answer on this node",
        ]) from error
