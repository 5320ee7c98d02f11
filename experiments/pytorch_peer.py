"""SDCLR's step in PyTorch, written for `benchmark.py` from the paper and its published order of operations: a ResNet-18
or ResNet-50 with private norms, a head of three layers, a mask over all convolutions, NT-Xent, and SGD.

Two forms of the step give the same gradient: `published` (three forwards, two backwards: each branch learns from the
other's outputs as constants) and `joint` (two forwards, one backward over both). Two forms of the views: `Loader`, with
Pillow in the processes of a DataLoader, and `on_device`, with batched tensors.
"""

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Norm(nn.Module):
    """Batch norms of which the branch that is forwarded uses its own."""

    def __init__(self, make, width):
        super().__init__()
        self.of_branch = nn.ModuleList([make(width), make(width)])

    def forward(self, x, branch):
        return self.of_branch[branch](x)


def conv(inputs, outputs, size, stride=1):
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Block(nn.Module):
    """Two 3x3 convolutions; or, as a bottleneck, 1x1, 3x3 and 1x1 with four times as many channels."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        self.outputs = 4 * width if bottleneck else width
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        self.convs = nn.ModuleList([conv(*shape) for shape in shapes])
        self.norms = nn.ModuleList([Norm(nn.BatchNorm2d, outputs) for _, outputs, _, _ in shapes])
        self.shortcut = None
        if stride != 1 or inputs != self.outputs:
            self.shortcut = conv(inputs, self.outputs, 1, stride)
            self.shortcut_norm = Norm(nn.BatchNorm2d, self.outputs)

    def forward(self, x, branch, masked):
        y, last = x, len(self.convs) - 1
        for number, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(masked(layer, y), branch)
            y = F.relu(y) if number < last else y
        if self.shortcut is not None:
            x = self.shortcut_norm(masked(self.shortcut, x), branch)
        return F.relu(x + y)


class Network(nn.Module):
    """Views [B, 3, H, W] of a branch, 0 dense and 1 sparse -> projections [B, 128]."""

    STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}

    def __init__(self, encoder="resnet18", large=False):
        """`large`: with the stem for photographs, a 7x7 convolution at stride 2 and pooling."""
        super().__init__()
        self.large = large
        self.stem, self.stem_norm = conv(3, 64, *((7, 2) if large else (3, 1))), Norm(nn.BatchNorm2d, 64)
        blocks, inputs = [], 64
        for stage, count in enumerate(self.STAGES[encoder]):
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(Block(inputs, 64 * 2**stage, stride, encoder == "resnet50"))
                inputs = blocks[-1].outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.ModuleList([nn.Linear(inputs, 512), nn.Linear(512, 512, bias=False), nn.Linear(512, 128)])
        self.head_norms = nn.ModuleList([Norm(nn.BatchNorm1d, width) for width in (512, 512, 128)])
        self.masks = {}

    def convolutions(self):
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    def refresh(self, rate):
        """One threshold over the magnitudes of all convolutions."""
        weights = torch.cat([layer.weight.detach().abs().flatten() for layer in self.convolutions()])
        limit = weights.kthvalue(int(rate * len(weights)) + 1).values
        self.masks = {layer: (layer.weight.detach().abs() >= limit) for layer in self.convolutions()}

    def forward(self, x, branch):
        def masked(layer, x):
            weight = layer.weight * self.masks[layer] if branch else layer.weight
            return F.conv2d(x, weight, None, layer.stride, layer.padding)

        x = F.relu(self.stem_norm(masked(self.stem, x), branch))
        x = F.max_pool2d(x, 3, 2, 1) if self.large else x
        for block in self.blocks:
            x = block(x, branch, masked)
        x = x.mean((2, 3))
        for number, (layer, norm) in enumerate(zip(self.head, self.head_norms, strict=True)):
            x = norm(layer(x), branch)
            x = F.relu(x) if number < 2 else x
        return x


def nt_xent(a, b, temperature=0.2):
    u = F.normalize(torch.cat([a, b]).float(), dim=1)
    logits = (u @ u.T / temperature).fill_diagonal_(float("-inf"))
    n = len(a)
    return F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(logits.device))


class Trainer:
    """step(view_0, view_1): one step of SDCLR on float views [B, 3, H, W]."""

    def __init__(
        self,
        form,
        device,
        *,
        encoder="resnet18",
        large=False,
        channels_last=False,
        bfloat16=False,
        compiled=False,
        rate=0.9,
    ):
        self.network, self.form, self.device, self.rate = Network(encoder, large).to(device), form, device, rate
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.5, momentum=0.9, weight_decay=1e-4)
        self.bfloat16 = bfloat16
        self.network.refresh(rate)
        self.forward = torch.compile(self.network) if compiled else self.network

    def _project(self, view, branch):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.forward(view.contiguous(memory_format=self.layout), branch)

    def step(self, view_0, view_1):
        self.optimizer.zero_grad(set_to_none=True)
        if self.form == "joint":
            nt_xent(self._project(view_0, 0), self._project(view_1, 1)).backward()
        else:
            with torch.no_grad():
                dense = self._project(view_0, 0)
            sparse = self._project(view_1, 1)
            nt_xent(dense, sparse).backward()
            nt_xent(self._project(view_0, 0), sparse.detach()).backward()
        self.optimizer.step()


def loader(images, batch_size, workers):
    """Batches of two views each of uint8 images [N, S, S, 3]: Pillow, in the processes of a DataLoader."""
    from PIL import Image
    from torchvision import transforms as T

    view = T.Compose(
        [
            T.RandomResizedCrop(images.shape[1], (0.1, 1.0), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            T.RandomGrayscale(0.2),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )

    class Views(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            picture = Image.fromarray(images[i])
            return view(picture), view(picture)

    return torch.utils.data.DataLoader(
        Views(), batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )


def on_device(images):
    """Two views of uint8 images [B, 3, S, S] that lie on the device already; each image has its own numbers."""
    return tuple(_view(images.float() / 255) for _ in range(2))


def _view(x):
    b, device = len(x), x.device
    uniform = lambda low, high: torch.empty(b, device=device).uniform_(low, high)  # noqa: E731
    area, log_ratio = uniform(0.1, 1.0), uniform(-0.2877, 0.2877)
    width = (area * log_ratio.exp()).sqrt().clamp(max=1)
    height = (area / log_ratio.exp()).sqrt().clamp(max=1)
    left, top = (1 - width) * uniform(-1, 1), (1 - height) * uniform(-1, 1)
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0] = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta[:, 1, 1], theta[:, 0, 2], theta[:, 1, 2] = height, left, top
    x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), mode="bicubic", align_corners=False)
    x = x.clamp(0, 1)
    jittered = x
    for operation in torch.randperm(4).tolist():
        jittered = _jitter(jittered, operation, uniform)
    x = torch.where((uniform(0, 1) < 0.8)[:, None, None, None], jittered, x)
    x = torch.where((uniform(0, 1) < 0.2)[:, None, None, None], _gray(x).expand_as(x), x)
    mean, std = (torch.tensor(v, device=device)[None, :, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def _gray(x):
    return (x * torch.tensor((0.299, 0.587, 0.114), device=x.device)[None, :, None, None]).sum(1, keepdim=True)


def _jitter(x, operation, uniform):
    factor = uniform(0.6, 1.4)[:, None, None, None]
    if operation == 0:
        return (x * factor).clamp(0, 1)
    if operation == 1:
        return (factor * x + (1 - factor) * _gray(x).mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    if operation == 2:
        return (factor * x + (1 - factor) * _gray(x)).clamp(0, 1)
    # Hue, as a rotation of the colours around gray.
    angle = 2 * torch.pi * uniform(-0.1, 0.1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    eye, ones = torch.eye(3, device=x.device), torch.full((3, 3), 1 / 3, device=x.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=x.device) / 3**0.5
    rotation = cos * eye + (1 - cos) * ones + sin * cross
    return torch.einsum("bij,bjhw->bihw", rotation, x).clamp(0, 1)
