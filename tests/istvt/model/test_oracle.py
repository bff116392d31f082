"""The model agrees with independent implementations of its parts, number by number."""

import numpy as np
import pytest
import torch
from oracle_files import DATA, oracle_model

from istvt.model.xception import XceptionEntryFlow


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("name", ["lrp_small", "lrp_medium"])
def test_encoded_tokens_and_logit_agree_with_the_oracle_to_1e_9(name, backend):
    model, oracle = oracle_model(name)
    model.set_backend(backend)
    with torch.no_grad():
        encoded = model.encode(torch.from_numpy(oracle["tokens"])[None])
        logit = model.classify(encoded)
    error = np.linalg.norm(encoded[0].numpy() - oracle["encoded"]) / np.linalg.norm(oracle["encoded"])
    assert error < 1e-9
    assert logit.item() == pytest.approx(float(oracle["logit"]), rel=1e-9)


@pytest.mark.parametrize("name", ["lrp_small", "lrp_medium"])
def test_the_last_block_computed_for_the_class_token_alone_gives_the_oracle_logit(name):
    model, oracle = oracle_model(name)
    tokens = torch.from_numpy(oracle["tokens"])[None]
    with torch.no_grad():
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        logit = model.classify(model.blocks[-1].class_token(tokens))
    assert logit.item() == pytest.approx(float(oracle["logit"]), rel=1e-9)


def test_the_entry_flow_agrees_with_the_oracle_to_1e_4():
    oracle = dict(np.load(DATA / "xception_entry_flow.npz"))
    backbone = XceptionEntryFlow().eval()
    weights = {k.removeprefix("weights/"): torch.from_numpy(v) for k, v in oracle.items() if k.startswith("weights/")}
    assert not backbone.load_state_dict(weights, strict=False).unexpected_keys
    with torch.no_grad():
        output = backbone(torch.from_numpy(oracle["input"])).numpy()
    assert output.shape == oracle["output"].shape
    assert np.linalg.norm(output - oracle["output"]) / np.linalg.norm(oracle["output"]) < 1e-4
