"""Methods that remember images: literal oracles in float64, orders, pieces, edges."""

import math
from inspect import signature
from operator import itemgetter

import pytest
import torch
import torch.nn.functional as F

from helpers.methods import cache, memory, registry

SCALE = 20.0

online = pytest.mark.parametrize("name", list(memory.ONLINE))


def stream(images=60, classes=5, width=8, orders=1, seed=0, views=0):
    """Unit features [O, T, D], or [O, T, V, D], about noisy class features [C, D]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    class_features = F.normalize(normal(classes, width), dim=-1)
    at = torch.randint(classes, (orders, images), generator=generator)
    features = class_features[at] + 0.6 * normal(orders, images, width)
    if views:
        features = features[:, :, None] + 0.3 * normal(orders, images, views, width)
    return F.normalize(features, dim=-1), class_features


def needs_views(name):
    return name == "boost_adapter"


def made_for(name, **about):
    return stream(views=10 if needs_views(name) else 0, **about)


def run(name, features, class_features, **settings):
    """The last state and all logits [O, T, C] of one call."""
    module = memory.ONLINE[name]
    state = module.start(class_features, SCALE, orders=len(features), **settings)
    return module.step(state, features)


def softmax(logits):
    e = [math.exp(z - max(logits)) for z in logits]
    return [x / sum(e) for x in e]


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def literal_logits(x, class_features):
    return [SCALE * float(x @ t) for t in class_features.double()]


# --- literal oracles: one image after the other, lists of each class -----------------


def update(lists, label, item, capacity):
    """Items (feature, entropy, ...) of a class, as in TDA's release."""
    kept = lists.setdefault(label, [])
    if len(kept) < capacity:
        kept.append(item)
    elif item[1] < kept[-1][1]:
        kept[-1] = item
    lists[label] = sorted(kept, key=itemgetter(1))


def remember(logits, x, positive, negative):
    """Add what TDA's two caches say about an image x."""
    for at, items in positive.items():
        for key, _ in items:
            logits[at] += 2 * math.exp(-5 * (1 - float(x @ key)))
    for items in negative.values():
        for key, _, mask in items:
            weight = 0.117 * math.exp(-(1 - float(x @ key)))
            for c, masked in enumerate(mask):
                logits[c] -= weight * masked


def literal_tda(features, class_features):
    positive, negative, made = {}, {}, []
    count = len(class_features)
    for x in features.double():
        logits = literal_logits(x, class_features)
        p = softmax(logits)
        h, label = entropy(p), logits.index(max(logits))
        update(positive, label, (x, h), 3)
        if 0.2 < h / math.log2(count) < 0.5:
            update(negative, label, (x, h, [0.03 < q < 1 for q in p]), 2)
        remember(logits, x, positive, negative)
        made.append(logits)
    return torch.tensor(made), positive, negative


def literal_dmn(features, class_features, capacity=50, alpha=1.0):
    mem, made = {}, []
    text = class_features.double()
    for x in features.double():
        logits = literal_logits(x, class_features)
        p = softmax(logits)
        update(mem, logits.index(max(logits)), (x, entropy(p)), capacity)
        seen = []
        for c, t in enumerate(text):
            rows = [t, *(key for key, _ in mem.get(c, []))]
            centre = sum(math.exp(-5.5 * (1 - float(x @ m))) * m for m in rows)
            seen.append(SCALE * float(x @ centre) / float(centre.norm()))
        q = softmax(seen)
        mixed = [(a + alpha * b) / (1 + alpha) for a, b in zip(p, q, strict=True)]
        made.append([math.log(m) for m in mixed])
    return torch.tensor(made)


def literal_dota(features, class_features, block=1, eta=0.2, rho=0.005):
    text = class_features.double()
    count, width = text.shape
    eye = torch.eye(width, dtype=torch.float64)
    mu, n, sigma = text.clone(), torch.ones(count).double(), [0.002 * eye] * count
    precision, made = eye / 0.002, []
    features = features.double()
    for begin in range(0, len(features), block):
        batch = features[begin : begin + block]
        for x in batch:
            logits = torch.tensor(literal_logits(x, class_features))
            weight = min(rho * float(n.mean()), eta)
            for c in range(count):
                score = x @ precision @ mu[c] - mu[c] @ precision @ mu[c] / 2
                logits[c] += weight * score
            made.append(logits)
        if len(batch) < block:
            break
        new_mu, new_n, new_sigma = mu.clone(), n.clone(), []
        for c in range(count):
            total, spread = n[c] * mu[c], n[c] * sigma[c]
            for x in batch:
                p = softmax(literal_logits(x, class_features))[c]
                total = total + p * x
                spread = spread + p * torch.outer(x - mu[c], x - mu[c])
                new_n[c] += p
            new_mu[c] = total / new_n[c]
            new_sigma.append(spread / new_n[c])
        mu, n, sigma = new_mu, new_n, new_sigma
        shared = sum(sigma) / count
        precision = torch.linalg.inv((1 - 1e-4) * shared + 1e-4 * eye)
    return torch.stack(made)


def literal_bca(features, class_features):
    mu = [t.clone() for t in class_features.double()]
    count = len(mu)
    rows = [[float(a == b) for b in range(count)] for a in range(count)]
    k, n, made = [20000] * count, [1] * count, []
    for x in features.double():
        near = softmax([SCALE * float(x @ m) for m in mu])
        r = [sum(near[m] * rows[m][c] for m in range(count)) for c in range(count)]
        y = r.index(max(r))
        if r[y] > 0.05:
            mu[y] = (k[y] * mu[y] + x) / (k[y] + 1)
            mu[y], k[y] = mu[y] / mu[y].norm(), k[y] + 1
        if r[y] > 0.65:
            rows[y] = [
                (n[y] * a + b) / (n[y] + 1) for a, b in zip(rows[y], r, strict=True)
            ]
            n[y] += 1
        made.append([math.log(max(p, torch.finfo(torch.float32).tiny)) for p in r])
    return torch.tensor(made), torch.stack(mu), torch.tensor(rows)


def literal_onzeta(features, class_features, length):
    text = class_features.double()
    count = len(text)
    w, rho, made = [t.clone() for t in text], [0.0] * count, []
    for i, x in enumerate(features.double(), start=1):
        p = softmax(literal_logits(x, class_features))
        t = [a * math.exp(b) for a, b in zip(p, rho, strict=True)]
        t = [a / sum(t) for a in t]
        rate = 20 / math.sqrt(i)
        rho = [max(0, b - rate * (a - 1 / count)) for a, b in zip(t, rho, strict=True)]
        v = softmax([SCALE / 4 * float(x @ row) for row in w])
        b = 0.8 * (math.sqrt(min(1, i / length)) if length else 1)
        made.append([math.log(b * p + (1 - b) * q) for p, q in zip(v, t, strict=True)])
        for c in range(count):
            w[c] = w[c] - 0.5 / math.sqrt(i) * SCALE / 4 * (v[c] - t[c]) * x
            w[c] = w[c] / w[c].norm()
    return torch.tensor(made)


def literal_boost_adapter(features, class_features, extra=1):
    """Views [T, V, D]: sorted lists, cut to length, as in the release."""

    def push(lists, label, item, capacity, fifo=False):
        kept = [*lists.get(label, []), item]
        kept = kept if fifo else sorted(kept, key=itemgetter(1))
        lists[label] = kept[-capacity:] if fifo else kept[:capacity]
        return fifo and len(kept) > capacity and kept[0][1] < kept[-1][1]

    positive, negative, made, pushed_out, dropped = {}, {}, [], 0, 0
    count = len(class_features)
    for views in features.double():
        about = []
        for v in views:
            logits = literal_logits(v, class_features)
            about.append((v, entropy(softmax(logits)), logits.index(max(logits))))
        x, h, label = about[0]
        logits = literal_logits(x, class_features)
        p = softmax(logits)
        push(positive, label, (x, h), 3)
        if 0.2 < h / math.log2(count) < 0.5:
            item = (x, h, [0.03 < q < 1 for q in p])
            dropped += push(negative, label, item, 2, fifo=True)
        own = {c: list(items) for c, items in positive.items()}
        surest = sorted(about, key=itemgetter(1))[: int(0.3 * len(views))]
        for v, h, label in surest:
            push(own, label, (v, h), 3 + extra)
        for at, items in own.items():
            pushed_out += sum(
                all(a[0] is not b[0] for b in items) for a in positive.get(at, [])
            )
        remember(logits, x, own, negative)
        made.append(logits)
    return torch.tensor(made), pushed_out, dropped


def close(logits, expected, atol=2e-4):
    return torch.allclose(logits.double(), expected.double(), atol=atol)


def test_tda_against_the_released_loop():
    features, classes = stream(images=150)
    state, logits = run("tda", features, classes)
    expected, positive, negative = literal_tda(features[0], classes)
    assert close(logits[0], expected)
    for lists, kept in ((positive, state.positive), (negative, state.negative)):
        for c in range(5):
            held = kept.entropies[0, c].isfinite()
            items = lists.get(c, [])
            assert int(held.sum()) == len(items)
            if items:
                assert close(kept.keys[0, c, held], torch.stack([i[0] for i in items]))
    assert all(len(items) == 3 for items in positive.values())  # capacity was reached
    assert any(len(items) == 2 for items in negative.values())
    masks = [item[2] for c in range(5) for item in negative.get(c, [])]
    held = state.negative.entropies[0].isfinite()
    assert state.negative.values[0][held].tolist() == masks


@pytest.mark.parametrize("capacity", [3, 50])
def test_dmn_against_its_definition(capacity):
    features, classes = stream(images=100)
    _, logits = run("dmn", features, classes, capacity=capacity)
    assert close(logits[0], literal_dmn(features[0], classes, capacity))


@pytest.mark.parametrize("block", [1, 7])
def test_dota_against_its_definition(block):
    features, classes = stream(images=40)
    _, logits = run("dota", features, classes, block=block)
    assert close(logits[0], literal_dota(features[0], classes, block), atol=5e-3)


def test_bca_against_its_definition():
    features, classes = stream(images=120)
    state, logits = run("bca", features, classes)
    expected, means, priors = literal_bca(features[0], classes)
    assert close(logits[0], expected, atol=1e-3)
    assert close(state.means[0], means, atol=1e-5)
    assert close(state.priors[0], priors, atol=1e-5)
    assert (priors.diagonal() < 0.99).all()  # every row has learnt
    assert len({*state.prior_counts[0].tolist()}) > 1
    assert (state.mean_counts.sum() - 5 * 20000) > (state.prior_counts.sum() - 5)


@pytest.mark.parametrize("length", [None, 40, 120])
def test_onzeta_against_the_released_loop(length):
    features, classes = stream(images=80)
    _, logits = run("onzeta", features, classes, length=length)
    assert close(logits[0].exp(), literal_onzeta(features[0], classes, length).exp())


@pytest.mark.parametrize("extra", [0, 1, 3])
def test_boost_adapter_against_the_released_loop(extra):
    features, classes = stream(images=60, views=12, classes=3)
    _, logits = run("boost_adapter", features, classes, rho=0.3, extra=extra)
    expected, pushed_out, dropped = literal_boost_adapter(features[0], classes, extra)
    assert close(logits[0], expected)
    assert pushed_out or extra == 3  # views took the place of remembered images
    assert dropped  # the negative cache let go of a surer image for a later one


# --- the caches ----------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["mixed", "ties", "burst", "falling", "refused"])
def test_a_cache_holds_whom_the_list_of_each_class_holds(capacity, kind):
    generator = torch.Generator().manual_seed(capacity)
    images, classes, orders = 70, 4, 2
    h = torch.rand(orders, images, generator=generator)
    at = torch.randint(classes, (orders, images), generator=generator)
    if kind == "ties":
        h = (4 * h).round() / 4
    elif kind == "burst":
        at = at.sort(dim=1).values
    elif kind == "falling":  # every image joins
        h, at = h.sort(dim=1, descending=True).values, torch.zeros_like(at)
    elif kind == "refused":
        h[:, ::3] = torch.inf
    keys = torch.arange(float(images)).expand(orders, -1)[..., None]
    lists = [{} for _ in range(orders)]
    made = cache.empty(torch.zeros(classes, 1), orders, capacity)
    split = [1, 30, 2, 37]
    for part in torch.arange(images).split(split):
        nothing = torch.zeros(orders, len(part), 0)
        shown, made = cache.push(made, at[:, part], h[:, part], keys[:, part], nothing)
        for t, image in enumerate(part.tolist()):
            for order, lists_of in enumerate(lists):
                label, entropy_ = int(at[order, image]), float(h[order, image])
                if entropy_ < math.inf:
                    update(lists_of, label, (image, entropy_), capacity)
                for c in range(classes):
                    here = shown.keys[order, c, shown.present[order, c, :, t], 0]
                    expected = sorted(i for i, _ in lists_of.get(c, []))
                    assert sorted(here.int().tolist()) == expected
        ranks = cache.ranks(shown)[shown.present]
        assert (ranks < capacity).all()
    for order, lists_of in enumerate(lists):
        for c in range(classes):
            held = made.entropies[order, c].isfinite()
            items = lists_of.get(c, [])
            assert made.keys[order, c, held, 0].int().tolist() == [i for i, _ in items]
            assert not made.keys[order, c, ~held].any()


def test_an_empty_slot_has_no_say():
    features, classes = stream(images=1)
    _, logits = run("tda", features, classes)
    alone = SCALE * features @ classes.T
    label = int(alone.argmax())
    others = [c for c in range(5) if c != label]
    shift = (logits - alone)[0, 0]
    assert shift[label] > 1.5  # its own key, at affinity 1, less its own veto
    assert (shift[others] <= 0).all()
    with pytest.raises(ValueError, match="need one at least"):
        memory.ONLINE["tda"].start(classes, SCALE, positive_capacity=0)


def test_without_weights_and_before_anything_is_learnt_it_is_zero_shot():
    features, classes = stream(images=40)
    zero_shot = SCALE * features @ classes.T
    _, logits = run("tda", features, classes, positive_weight=0, negative_weight=0)
    assert torch.equal(logits, zero_shot)
    _, logits = run("bca", features, classes, mean_threshold=1, prior_threshold=1)
    assert close(logits, zero_shot.log_softmax(dim=2))
    _, logits = run("onzeta", features[:, :1], classes, weight=0)
    assert close(logits, zero_shot[:, :1].log_softmax(dim=2))
    _, logits = run("dota", features, classes, most=0)
    assert close(logits, zero_shot)
    _, logits = run("dota", features[:, :16], classes)  # of the first block
    assert torch.equal(logits.argmax(dim=2), zero_shot[:, :16].argmax(dim=2))
    _, logits = run("dmn", features, classes, weight=1e-30)
    assert close(logits, zero_shot.log_softmax(dim=2))


def test_onzeta_trusts_a_length_that_is_too_short_to_its_end():
    features, classes = stream(images=30)
    _, short = run("onzeta", features, classes, length=10)
    _, unknown = run("onzeta", features, classes)
    assert torch.equal(short[:, 10:], unknown[:, 10:])
    assert not torch.equal(short[:, :9], unknown[:, :9])
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="length"):
            run("onzeta", features, classes, length=wrong)


def test_the_band_of_the_negative_cache_is_in_nats_over_bits():
    # 29 to 72 % of the highest entropy, not 20 to 50 %
    features, classes = stream(images=200, classes=6)
    state, _ = run("tda", features, classes, negative_capacity=200)
    entropies = state.negative.entropies[state.negative.entropies.isfinite()]
    share = entropies / math.log(6)
    assert 0.2 / math.log(2) < share.min()
    assert 0.55 < share.max() < 0.5 / math.log(2)


# --- what holds for all of them ------------------------------------------------------


@online
def test_pieces_and_orders_do_not_change_results(name):
    features, classes = made_for(name, images=300, orders=3)
    module = memory.ONLINE[name]
    _, whole = run(name, features, classes)
    state = module.start(classes, SCALE, orders=3)
    made = []
    for part in features.split([1, 1, 2, 130, 17, 149], dim=1):
        state, logits = module.step(state, part)
        made.append(logits)
    assert close(torch.cat(made, dim=1), whole)
    for order in range(3):
        _, alone = run(name, features[order : order + 1], classes)
        assert close(alone[0], whole[order])


@online
def test_a_state_is_not_changed_by_a_step(name):
    features, classes = made_for(name)
    module = memory.ONLINE[name]
    for state in (module.start(classes, SCALE), run(name, features, classes)[0]):
        _, first = module.step(state, features)
        _, again = module.step(state, features)
        assert torch.equal(first, again)


@online
def test_later_images_do_not_matter_and_earlier_ones_do(name):
    features, classes = made_for(name, images=80)
    _, logits = run(name, features, classes)
    later = features.clone()
    later[:, 50:] = features[:, 50:].flip(1)
    assert close(run(name, later, classes)[1][:, :50], logits[:, :50])
    turned = features.flip(1)
    assert not close(run(name, turned, classes)[1].flip(1), logits, atol=1e-2)


@online
def test_class_order_does_not_matter(name):
    features, classes = made_for(name)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    _, logits = run(name, features, classes)
    assert close(run(name, features, classes[order])[1], logits[..., order])


@online
def test_results_repeat_and_no_method_asks_for_labels(name):
    features, classes = made_for(name, images=90, orders=2)
    assert torch.equal(*(run(name, features, classes)[1] for _ in range(2)))
    module = memory.ONLINE[name]
    asked = {*signature(module.start).parameters, *signature(module.step).parameters}
    assert not asked & {"labels", "label", "targets", "y"}


@online
@pytest.mark.parametrize("classes", [1, 4])
def test_short_and_uniform_streams(name, classes):
    for images in (1, 2):
        features, known = made_for(name, images=images, classes=classes)
        state, logits = run(name, features, known)
        assert logits.shape == (1, images, classes)
        assert logits.isfinite().all()
        assert memory.state_bytes(state) > 0
    same = features[:, :1].repeat_interleave(50, dim=1)  # duplicates, one class
    _, logits = run(name, same, known)
    assert logits.isfinite().all()
    if name != "onzeta":  # which expects every class equally often
        assert (logits.argmax(dim=2) == logits[0, 0].argmax()).all()


@online
def test_bfloat16_features_are_computed_in_float32(name):
    features, classes = made_for(name)
    low = features.bfloat16()
    _, logits = run(name, low, classes.bfloat16())
    assert logits.dtype == torch.float32
    assert torch.equal(logits, run(name, low.float(), classes.bfloat16().float())[1])


@online
def test_bad_input_is_refused(name):
    features, classes = made_for(name, orders=2)
    module = memory.ONLINE[name]
    state = module.start(classes, SCALE, orders=2)
    broken = features.clone()
    broken[1, 7] = torch.nan
    with pytest.raises(ValueError, match="order 1, image 7: NaN"):
        module.step(state, broken)
    for wrong in (features[:1], features[..., :4], features[0], features[:, :0]):
        with pytest.raises(ValueError, match="expected"):
            module.step(state, wrong)
    bad = classes.clone()
    bad[3, 0] = torch.inf
    with pytest.raises(ValueError, match="class 3"):
        module.start(bad, SCALE)
    with pytest.raises(ValueError, match="logit_scale"):
        module.start(classes, 0.0)
    with pytest.raises(ValueError, match="orders"):
        module.start(classes, SCALE, orders=0)
    with pytest.raises(ValueError, match="one class"):
        module.start(classes[:0], SCALE)


def test_every_method_has_a_name_of_its_own():
    keys = {*memory.ONLINE, *memory.TRANSDUCTIVE}
    assert len({registry.names()[key] for key in keys}) == len(keys)
    families = {registry.find(key).family for key in keys}
    assert families == {"memory", "all at once"}


# --- sets classified together --------------------------------------------------------

transductive = pytest.mark.parametrize("name", list(memory.TRANSDUCTIVE))


def predict(name, features, class_features, **settings):
    module = memory.TRANSDUCTIVE[name]
    return module.predict(features, class_features, SCALE, **settings)


def test_em_priors_against_the_definition():
    features, classes = stream(images=40)
    features = features[0, :40]
    p = [softmax(literal_logits(x, classes)) for x in features.double()]
    prior = [1 / 5] * 5
    for _ in range(2000):
        weighted = [
            [a * b / (1 / 5) for a, b in zip(row, prior, strict=True)] for row in p
        ]
        q = [[w / sum(row) for w in row] for row in weighted]
        prior = [sum(row[c] for row in q) / len(q) for c in range(5)]
    made = predict("em_priors", features, classes, rounds=2000, tolerance=0)
    assert close(made.exp(), torch.tensor(q), atol=1e-4)


def test_em_priors_find_a_class_that_is_not_there():
    features, classes = stream(images=400, classes=4)
    zero_shot = SCALE * features[0] @ classes.T
    rows = features[0][zero_shot.argmax(dim=1) != 2]
    made = predict("em_priors", rows, classes)
    share = (SCALE * rows @ classes.T).softmax(dim=1).mean(dim=0)
    assert made.exp().mean(dim=0)[2] < share[2]


def literal_neighbours(features, count):
    """W as lists of (i, j, cosine): each image's nearest others."""
    edges = []
    for i, x in enumerate(features):
        others = [(float(x @ o), j) for j, o in enumerate(features) if j != i]
        edges += [(i, j, c) for c, j in sorted(others, reverse=True)[:count]]
    return edges


def literal_settle(y, g, edges, z):
    for _ in range(5):
        passed = torch.zeros_like(z)
        for i, j, cosine in edges:
            passed[i] += cosine * z[j]
            passed[j] += cosine * z[i]
        z = y * ((g + 50 / 6 * passed) / 50).exp()
        z = z / z.sum(dim=1, keepdim=True)
    return z


def literal_transclip(features, class_features):
    features, text = features.double(), class_features.double()
    y = torch.tensor([softmax(literal_logits(x, text)) for x in features])
    edges = literal_neighbours(features, 3)
    means = []
    for c in range(len(text)):
        best = sorted(range(len(y)), key=lambda i: -float(y[i, c]))[:8]
        mean = sum(y[i, c] * features[i] for i in best) / 8
        means.append(mean / mean.norm())
    variances, z = torch.ones(features.shape[1]).double() / features.shape[1], y
    for number in range(11):
        g = -((features[:, None] - torch.stack(means)) ** 2 / variances).sum(2) / 2
        z = literal_settle(y, g, edges, z)
        if number == 10:
            return z
        means, variances = [], torch.zeros_like(variances)
        for c in range(len(text)):
            mean = sum(z[i, c] * x for i, x in enumerate(features))
            means.append(mean / mean.norm())
            for i, x in enumerate(features):
                variances += z[i, c] * (x - means[c]) ** 2 / len(features)


def literal_stata(features, class_features):
    features, text = features.double(), class_features.double()
    y = torch.tensor([softmax(literal_logits(x, text)) for x in features])
    edges = literal_neighbours(features, 3)
    prior = torch.zeros(features.shape[1]).double()
    for i, x in enumerate(features):
        for c, t in enumerate(text):
            prior += y[i, c] * (x - t) ** 2 / len(features)
    means, variances, z = text, prior.expand_as(text), y
    for number in range(11):
        g = -((features[:, None] - means) ** 2 / variances).sum(2) / 2
        z = literal_settle(y, g, edges, z)
        if number == 10:
            return z
        means, variances = [], []
        for c, t in enumerate(text):
            count = sum(int(row.argmax()) == c for row in z)
            b = count / (1 + count)
            mean = sum(z[i, c] * x for i, x in enumerate(features))
            mean = b * mean / mean.norm() + (1 - b) * t
            means.append(mean / mean.norm())
            own = sum(z[i, c] * (x - means[c]) ** 2 for i, x in enumerate(features))
            anchored = prior + (t - means[c]) ** 2
            variances.append(b * own / z[:, c].sum() + (1 - b) * anchored)
        means, variances = torch.stack(means), torch.stack(variances)


def literal_zlap(features, class_features):
    features, text = features.double(), class_features.double()
    count, nodes = len(text), len(text) + len(features)
    a = torch.zeros(nodes, nodes).double()
    for i, j, cosine in literal_neighbours(features, 4):
        a[count + i, count + j] += max(0, cosine)
    for i, x in enumerate(features):
        cosines = [(float(x @ t), c) for c, t in enumerate(text)]
        for cosine, c in sorted(cosines, reverse=True)[:5]:
            a[count + i, c] += max(0, cosine) ** 5
    a = a + a.T
    degree = a.sum(dim=1)
    s = a / torch.sqrt(degree[:, None] * degree)
    x = torch.linalg.inv(torch.eye(nodes).double() - 0.3 * s)[count:, :count]
    return x / x.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("transclip", literal_transclip),
        ("stata", literal_stata),
        ("zlap", literal_zlap),
    ],
)
def test_transduction_against_its_definition(name, oracle):
    features, classes = stream(images=40, classes=7)
    made = predict(name, features[0], classes)
    assert close(made.exp(), oracle(features[0], classes), atol=1e-4)


@transductive
def test_image_and_class_order_do_not_matter(name):
    features, classes = stream(images=50)
    made = predict(name, features[0], classes)
    generator = torch.Generator().manual_seed(2)
    images = torch.randperm(50, generator=generator)
    order = torch.randperm(5, generator=generator)
    turned = predict(name, features[0, images], classes[order])
    assert close(turned.exp(), made[images][:, order].exp(), atol=1e-3)
    assert torch.equal(predict(name, features[0], classes), made)


@transductive
def test_a_set_of_one_image_or_of_copies_is_classified_zero_shot(name):
    features, classes = stream(images=3)
    zero_shot = (SCALE * features[0] @ classes.T).softmax(dim=1)
    for x, p in zip(features[0], zero_shot, strict=True):
        for rows in (x[None], x.expand(12, -1)):
            made = predict(name, rows, classes)
            assert made.isfinite().all()
            assert (made.argmax(dim=1) == p.argmax()).all()
    assert predict(name, features[0], classes[:1]).abs().max() < 1e-6  # ln 1


@transductive
def test_a_set_is_computed_in_float32_and_bad_input_refused(name):
    features, classes = stream(images=30)
    low = features[0].bfloat16(), classes.bfloat16()
    made = predict(name, *low)
    assert made.dtype == torch.float32
    assert torch.equal(made, predict(name, *(part.float() for part in low)))
    assert torch.allclose(made.exp().sum(dim=1), torch.ones(30), atol=1e-5)
    broken = features[0].clone()
    broken[4, 2] = torch.nan
    with pytest.raises(ValueError, match="image 4: NaN"):
        predict(name, broken, classes)
    for wrong in (features, features[0, :, :3], features[0, :0]):
        with pytest.raises(ValueError, match="expected"):
            predict(name, wrong, classes)
    with pytest.raises(ValueError, match="logit_scale"):
        memory.TRANSDUCTIVE[name].predict(features[0], classes, -1.0)
