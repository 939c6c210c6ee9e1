"""The networks of fitted estimators, exported by Torch for programs without skae."""

import numpy as np
import pytest
import torch

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer
from skae.networks import Conv1dNetwork, Conv2dNetwork, RecurrentNetwork

X = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)


# Torch says it of any nn.GRU and nn.LSTM.
@pytest.mark.filterwarnings("ignore:The tensor attributes self.recurrence._flat_weights")
@pytest.mark.parametrize(
    "autoencoder",
    [
        AutoencoderTransformer(2, dropout=0.1),
        AutoencoderTransformer(2, tied_weights=True),
        DenoisingAutoencoder(2, network=Conv1dNetwork((6, 2), (4,), kernel_size=3)),
        AutoencoderTransformer(2, network=Conv2dNetwork((4, 3), (4,), kernel_size=3)),
        AutoencoderTransformer(2, network=RecurrentNetwork((3, 4), 4)),
        AutoencoderTransformer(2, network=RecurrentNetwork((3, 4), 4, cell="gru")),
        VAETransformer(2),
    ],
    ids=repr,
)
def test_encoder_and_decoder_can_be_exported_for_any_number_of_rows(autoencoder, tmp_path):
    module = autoencoder.set_params(max_iter=1, random_state=0).fit(X).module_
    n_rows = torch.export.Dim("n_rows", min=2)
    for network, width in ((module.encoder, 12), (module.decoder, 2)):
        rows = torch.randn(3, width)
        program = torch.export.export(network, (rows,), dynamic_shapes=({0: n_rows},))
        torch.export.save(program, tmp_path / "network.pt2")
        loaded = torch.export.load(tmp_path / "network.pt2").module()
        rows = torch.randn(7, width)
        torch.testing.assert_close(loaded(rows), network(rows))
