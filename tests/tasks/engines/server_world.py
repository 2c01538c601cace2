"""Servers that speak what vLLM's do, the engine over them, and what must come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from params.engine import Engine
from tasks.artefacts.artefact import Artefact
from tasks.engines.base import Request, Response, Sampling
from tasks.engines.server_state import Patience
from tasks.engines.vllm_pool import Servers
from tasks.policy.policy import Policy
from tests.conftest import as_artefact
from tests.tasks.engines.protocol_server import Server
from tests.tasks.rollout_rows import parameters

GENERATE = "/inference/v1/generate"
SAMPLING = Sampling(0.8, 8, (2,))
PATIENCE = Patience(first=0.05, growth=1.5, tries=3, watch=0.1, look=0.05, overdue_known=1 << 30)
"""Nothing is sent twice: what a lost server held is seen to go to the others."""
PROBE = 4 * 2
"""Questions that the probe asks of a server that is greeted: for the base model, and for the policy."""


class World:
    """Some servers, and the engine over them."""

    def __init__(self, model: Artefact, scratch: Path) -> None:
        self.model, self.scratch = model, scratch
        self.params = parameters()
        self.servers: list[Server] = []
        self.engines: list[Servers] = []

    def start(self, servers: int = 2, key: str | None = None, **settings: Any) -> Servers:
        self.start_servers(servers, key)
        return self.engine(**settings)

    def start_servers(self, servers: int, key: str | None = None, shelf: Path | None = None) -> None:
        self.servers += [Server(self.model.path, self.params, key, shelf) for _ in range(servers)]

    def engine(self, patience: Patience = PATIENCE, **settings: Any) -> Servers:
        told = {"name": "server", "max_sequences": 4, "health_timeout": 30, **settings}
        engine = Engine(**{"servers": tuple(server.address for server in self.servers), **told})
        params = self.params.model_copy(update={"engine": engine})
        made = Servers(
            self.model.path, lambda: Policy.open(self.model.path, params), params, self.scratch, patience
        )
        self.engines.append(made)
        return made

    def close(self) -> None:
        """End everything."""
        for engine in self.engines:
            engine.close()
        for server in self.servers:
            server.stop()

    def policy(self, seed: int = 1) -> Artefact:
        """A policy artefact whose weights are not the base's."""
        policy = Policy.open(self.model.path, self.params)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in policy.weights.masters.items():
                if ".lora_A." not in name:
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        policy.stepped()
        folder = self.scratch / f"policy-{seed}"
        policy.save(folder)
        return as_artefact(folder, "update", seed)


def requests(problems: int = 6, samples: int = 4) -> list[Request]:
    prompts = [tuple(range(4 + p, 12 + p)) for p in range(problems)]
    return [Request(prompt, 1000 * p + s) for p, prompt in enumerate(prompts) for s in range(samples)]


def expected(engine: Servers, asked: list[Request]) -> Callable[[list[Response]], None]:
    """Whether responses are those of the seeds, scored by the policy that the trainer holds."""

    def check(responses: list[Response]) -> None:
        assert len(responses) == len(asked)
        for request, response in zip(asked, responses, strict=True):
            generator = torch.Generator().manual_seed(request.seed)
            assert list(response.token_ids) == torch.randint(4, 90, (6,), generator=generator).tolist()
        prompts, ids = [r.prompt_ids for r in asked], [r.token_ids for r in responses]
        scored = engine._policy.score(prompts, ids, SAMPLING.temperature).logp
        ours = torch.tensor([logp for response in responses for logp in response.logp])
        torch.testing.assert_close(ours, scored, atol=1e-5, rtol=0.0)

    return check


def after(path: str, count: int, what: str) -> Callable[[str, int], str | None]:
    """A fault from the ``count``-th request for ``path`` on."""
    return lambda asked, times: what if asked == path and times >= count else None
