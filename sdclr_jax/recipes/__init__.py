"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

from sdclr_jax.recipes.checks import check, check_new, read
from sdclr_jax.recipes.configs import DECLARED, METHODS, NAMES, fields, load, load_with_sources, mapping, override
from sdclr_jax.recipes.encoders import (
    IMPORTED,
    choose_encoder,
    encoder,
    encoder_fields,
    encoder_record,
    encoder_record_of_config,
    encoder_shapes,
)
from sdclr_jax.recipes.evaluation import (
    check_against,
    frozen_encoder,
    frozen_features,
    groups,
    online_probe,
    probe_views,
    protocol,
    protocol_arguments,
    protocols,
    pruning_probe,
)
from sdclr_jax.recipes.examples import Data, data
from sdclr_jax.recipes.identity import alike, check_same_run, identity, located, note_places, override_free
from sdclr_jax.recipes.images import (
    batches,
    centre_crop,
    check_batch_size,
    epoch,
    image_shape,
    plain_view,
    probe_crops,
    shared_batch_size,
    view_shape,
    views,
)
from sdclr_jax.recipes.methods import abstract_state, method, network, try_step
from sdclr_jax.recipes.photos import LEAST_EPOCHS, MOST_EPOCHS, ON_ACCELERATOR, described_recipe, photos, photos_side
from sdclr_jax.recipes.start import architecture_of, choose_architecture, start, started, with_hash_of_start
from sdclr_jax.recipes.unread import unread, warn_of_unread
