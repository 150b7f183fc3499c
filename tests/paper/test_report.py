"""The report: the paper's numbers next to our results, as HTML and Markdown."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from resnets.paper import report
from resnets.paper.store import Store
from resnets.support.errors import UserError
from tests.paper import made_up

EMPTY = {"meta", "br", "link", "img", "input", "hr", "col"}


class Checker(HTMLParser):
    """Finds elements that are not closed, identifiers, references, and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.words = [], [], [], []
        self.external = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        for name in ("href", "src", "srcset", "data", "action"):
            if attributes.get(name):
                (self.links if tag in ("a", "use") else self.external).append(attributes[name])
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def checked(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    files = report.write(made_up.everything(), out, out / "results")
    return out, files


def pages(outcomes, out):
    report.write(outcomes, out)
    return (out / "report.html").read_text(), (out / "report.md").read_text()


def table(markdown, caption):
    """Rows of a Markdown table, as lists of cells."""
    lines = markdown[markdown.index(f"**{caption}") :].split("\n\n")
    rows = next(block for block in lines if block.startswith("|")).splitlines()
    return [
        [re.sub(r"\s*<sup>.*?</sup>", "", cell).strip() for cell in row.strip("|").split("|")]
        for row in rows
    ]


def test_the_page_is_whole_and_fetches_nothing(everything):
    out, files = everything
    html = (out / "report.html").read_text()
    checker = checked(html)
    assert len(checker.ids) == len(set(checker.ids))
    assert checker.external == []
    assert "http" not in html
    assert "<script" not in html
    for link in checker.links:
        assert link[1:] in checker.ids if link.startswith("#") else link.startswith("results/")
    for reference in re.findall(r"url\((.*?)\)", html):
        assert reference.startswith("#")
        assert reference[1:] in checker.ids
    assert all(file.exists() for file in files)


def test_names_are_not_markup(everything):
    out, _ = everything
    html, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "photos &lt;1&gt;-64" in html
    assert "--network &lt;b&gt;&amp;" in html
    assert "<b>" not in html + markdown
    assert "<1>" not in html


def test_every_table_of_the_markdown_has_equal_rows(everything):
    markdown = (everything[0] / "report.md").read_text()
    blocks = [block for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(blocks) > 10
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block.splitlines()[0]


def test_html_and_markdown_say_the_same(everything):
    out, _ = everything
    words = " ".join(" ".join(checked((out / "report.html").read_text()).words).split())
    for row in table((out / "report.md").read_text(), "Table 6")[2:]:
        for cell in row[1:]:
            assert cell in words


def test_every_figure_has_its_files_and_a_text(everything):
    out, _ = everything
    html, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    names = re.findall(r"!\[.+?\]\((.+?)\.png\)", markdown)
    assert len(names) == html.count("<svg") == len(list(out.glob("*.png")))
    for name in names:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'id="figure-{name}"' in html
    wanted = {"fig1", "fig4", "fig6", "fig7", "signals", "against"}
    assert {name.partition("-")[0] for name in names} == wanted


def test_mean_spread_and_number_of_seeds(tmp_path):
    runs = [made_up.training("cifar-resnet20", seed=seed) for seed in range(3)]
    for run, error in zip(runs, (8.0, 8.5, 9.0), strict=True):
        run.values["measured"]["error"] = error
    html, markdown = pages(runs, tmp_path)
    row = next(row for row in table(markdown, "Table 6") if row[0] == "ResNet-20")
    assert row[1:4] == ["8.75", "8.50 ± 0.50 (3)", "−0.25"]
    assert "seed 1: 8.50" in html


def test_budgets_never_share_a_column(tmp_path):
    runs = [made_up.training("cifar-resnet20", budget) for budget in ("full", "short", "smoke")]
    _, markdown = pages(runs, tmp_path)
    rows = table(markdown, "Table 6")
    header, row = rows[0], next(row for row in rows if row[0] == "ResNet-20")
    budgets = {
        budget: next(n for n, name in enumerate(header) if f"[{budget}" in name)
        for budget in ("full", "short", "smoke")
    }
    for run in runs:
        assert row[budgets[run.group.budget]] == f"{run.values['measured']['error']:.2f}"
    assert header.count("difference") == 1
    assert header[budgets["full"] + 1] == "difference"
    assert "3,000 of 64,000 iterations" in header[budgets["short"]]
    for budget in ("short", "smoke"):
        assert header[budgets[budget]].endswith("not comparable")


@pytest.mark.parametrize(
    ("group", "images", "comparable"),
    [
        ("imagenet-224-full", 50_000, True),
        ("imagenet-64-full", 50_000, False),
        ("imagenet-224-short", 50_000, False),
        ("my-short-photos-224-full", 400, False),
    ],
)
def test_only_imagenet_at_its_size_and_length_is_set_against_the_paper(
    tmp_path, group, images, comparable
):
    outcome = made_up.shown("resnet34-a", "ten-crop", "full", group=group, images=images)
    _, markdown = pages([outcome], tmp_path)
    assert ("difference" in table(markdown, "Table 2")[0]) == comparable


def test_a_training_cut_short_is_not_set_against_the_paper(tmp_path):
    run = made_up.training("cifar-resnet20")
    run.values["iterations"] = 50_000
    _, markdown = pages([run], tmp_path)
    header = table(markdown, "Table 6")[0]
    assert "difference" not in header
    assert "50,000 of 64,000 iterations" in header[2]


def test_protocols_do_not_stand_in_for_each_other(tmp_path):
    _, markdown = pages([made_up.shown("resnet50", "dense")], tmp_path)
    rows = {name: table(markdown, name) for name in ("Table 3", "Table 4")}
    found = {name: next(row for row in rows[name] if row[0] == "ResNet-50")[2:4] for name in rows}
    assert found["Table 3"] == ["not run", ""]
    assert found["Table 4"] == ["23.80", "+3.06"]


def test_option_b_is_what_a_network_has_if_its_name_says_nothing(tmp_path):
    _, markdown = pages([made_up.shown("resnet34", "ten-crop")], tmp_path)
    rows = {row[0]: row for row in table(markdown, "Table 3")}
    assert rows["ResNet-34 B"][2] == "23.80"
    assert rows["ResNet-34 A"][2] == rows["ResNet-34 C"][2] == "not run"


def test_images_of_another_kind_leave_a_cell_empty(tmp_path):
    runs = [made_up.training("cifar-resnet110"), made_up.shown("resnet101", "center")]
    _, markdown = pages(runs, tmp_path)
    follow_up = "The follow-up's networks with pre-activation"
    cifar = {row[0]: row for row in table(markdown, f"{follow_up}, CIFAR")}
    photos = {row[0]: row for row in table(markdown, f"{follow_up}, ImageNet")}
    assert cifar["ResNet-110, original"][2] == f"{runs[0].values['measured']['error']:.2f}"
    assert cifar["ResNet-110, pre-activation"][2] == "not run"
    assert "ResNet-101, original, top-1" not in cifar
    assert photos["ResNet-101, original, top-1"][2] == "23.80"
    assert photos["ResNet-152, original, top-1"][2] == "not run"


def test_small_networks_are_called_so(tmp_path):
    outcomes = made_up.photos("photos-64-short", "short", "-small", 400)
    _, markdown = pages(outcomes, tmp_path)
    row = next(row for row in table(markdown, "Table 2") if row[0] == "34-layer")
    assert "plain-34-small" in row[2]


def test_an_empty_store_says_what_to_run(tmp_path):
    html, markdown = pages([], tmp_path)
    checked(html)
    for experiment in ("fig1", "fig6", "fig7", "table2", "table6", "signals", "deepened"):
        assert f"resnets paper run {experiment} --budget full" in html
        assert f"resnets paper run {experiment} --budget full" in markdown
    assert "Nothing has been run yet" in html
    assert "<svg" not in html


def test_rows_of_a_table_that_nobody_ran_are_named(tmp_path):
    tests = [made_up.shown(name, "ten-crop") for name in ("plain18", "resnet18-a", "plain34")]
    tests.append(made_up.shown("resnet34-a", "ten-crop", "short", group="imagenet-224-short"))
    _, markdown = pages(tests, tmp_path)
    assert "yet: 34-layer: `resnets paper run table2 --budget full --data FOLDER`" in markdown
    _, markdown = pages([*tests, made_up.shown("resnet34-a", "ten-crop")], tmp_path)
    assert "run table2" not in markdown


def test_missing_networks_of_a_figure_are_named(tmp_path):
    _, markdown = pages([made_up.training("cifar-plain20", "short")], tmp_path)
    assert re.search(r"plain-56: `resnets paper run fig1 --budget short`", markdown)
    assert "`resnets paper run fig1 --budget full`" in markdown
    assert re.search(r"ResNet-110: `resnets paper run fig6 --budget short`", markdown)
    _, markdown = pages([made_up.training("cifar-plain20", "full")], tmp_path)
    assert re.search(r"ResNet-1202: `resnets paper run fig6 --budget full`", markdown)


def test_deepening_and_variants_stand_apart(tmp_path):
    outcomes = [
        made_up.deepened(),
        made_up.training("cifar-plain20", "short"),
        made_up.training("cifar-plain56", "short"),
        made_up.training("cifar-plain56", "short", group="cifar10-short-deepened"),
        made_up.training("cifar-plain56", "short", group="cifar10-short-no-warmup"),
    ]
    _, markdown = pages(outcomes, tmp_path)
    errors = [f"{outcome.values['measured']['error']:.2f}" for outcome in outcomes[1:]]
    row = table(markdown, "Deeper by construction")[2]
    assert row[2:5] == ["24.90 %", "24.90 %", "1.9e-06"]
    assert row[5:] == [errors[2], errors[1]]
    assert table(markdown, "Variant: no warmup")[2][1:3] == [errors[1], errors[3]]
    assert errors[2] not in str(table(markdown, "Table 6"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("training", "measured"),
        ("training", "iterations"),
        ("training", "train_curve"),
        ("training", "test_curve"),
        ("training", "train_error"),
        ("test", "error"),
        ("ensemble", "error"),
        ("responses", "responses"),
        ("signals", "steps"),
        ("deepened", "from"),
        ("deepened", "difference"),
        ("deepened", "shallow_error"),
    ],
)
@pytest.mark.parametrize("bad", ["absent", None, {"a": 1}, [["a"]], [{"layer": "conv1"}]])
def test_a_damaged_result_is_one_error_that_names_it(tmp_path, kind, name, bad):
    whole = {
        "training": made_up.training("cifar-plain56"), "test": made_up.shown("resnet50", "dense"),
        "ensemble": made_up.ensemble(), "responses": made_up.responses("cifar-plain20"),
        "signals": made_up.signals("cifar-plain20"), "deepened": made_up.deepened(),
    }[kind]  # fmt: skip
    values = {k: v for k, v in whole.values.items() if k != name}
    values |= {} if bad == "absent" else {name: bad}
    with pytest.raises(UserError) as error:
        report.write([replace(whole, values=values)], tmp_path / "out")
    assert whole.key in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_seed_that_is_no_number_is_an_error(tmp_path):
    run = made_up.training("cifar-resnet20")
    with pytest.raises(UserError, match="seed"):
        report.write([replace(run, identity={**run.identity, "seed": "first"})], tmp_path)


@pytest.mark.parametrize("key", ["stray", "cifar10/cifar-resnet20-seed0"])
def test_a_key_of_no_experiment_is_an_error(tmp_path, key):
    store = Store(tmp_path)
    store.write(made_up.training("cifar-resnet20"))
    (written,) = tmp_path.rglob("*.json")
    content = {**json.loads(written.read_text()), "key": key}
    store.path(key).parent.mkdir(exist_ok=True)
    store.path(key).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{key}.json: is not a valid result file"):
        list(store.everything())


def test_the_report_does_not_depend_on_order(tmp_path):
    outcomes = [made_up.training(f"cifar-plain{n}", "short", n) for n in (20, 56)]
    one, other = pages(outcomes, tmp_path / "a"), pages(outcomes[::-1], tmp_path / "b")
    assert one == other


def test_figures_of_an_earlier_report_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    report.write([made_up.training("cifar-plain20", "short")], tmp_path)
    assert (tmp_path / "fig1-cifar10-short.png").exists()
    report.write([made_up.training("cifar-resnet20", "short")], tmp_path)
    assert not (tmp_path / "fig1-cifar10-short.png").exists()
    assert (tmp_path / "fig6-cifar10-short.png").exists()
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_sentences_stand_under_each_other_on_a_phone_with_their_heads(everything):
    html = (everything[0] / "report.html").read_text()
    words = re.findall(r'<table class="words".*?</table>', html, re.DOTALL)
    assert len(words) == 5
    for text in words:
        assert all(re.match(r' data-head="[^"]+"', cell) for cell in text.split("<td")[1:])
    assert 'data-head="here, full: 64,000 iterations"' in html


def test_statements_are_not_judged_by_smoke_runs(tmp_path):
    smoke = [made_up.training(f"cifar-{name}", "smoke") for name in ("plain20", "plain56")]
    _, markdown = pages(smoke, tmp_path)
    heads = table(markdown, "Statements checked on CIFAR-10")[0]
    assert heads == ["statement", "section", "here"]
    assert "they are not judged" in markdown
    short = [made_up.training(f"cifar-{name}", "short") for name in ("plain20", "plain56")]
    _, markdown = pages(smoke + short, tmp_path)
    assert len(table(markdown, "Statements checked on CIFAR-10")[0]) == 3
    assert "they are not judged" not in pages(short, tmp_path)[1]


def test_the_report_begins_with_verdicts_table_6_and_figure_6(tmp_path):
    page = report.build(made_up.everything(), tmp_path)
    titles = [section.title for section in page.sections]
    assert titles[:3] == ["In short", "Table 6: CIFAR-10", "Figure 6: trainings on CIFAR-10"]
    (summary,) = page.sections[0].parts
    assert [head.text for head in summary.header[2:]] == [
        "✓ holds", "✗ does not hold", "? not clear", "– not run"
    ]  # fmt: skip
    statements = next(s for s in page.sections if s.title == "The paper's statements")
    tones = Counter(
        cell.tone for part in statements.parts[1:] for row in part.rows for cell in row if cell.tone
    )
    columns = ("holds", "does not hold", "not clear", "not run")
    for column, state in enumerate(columns, 2):
        assert sum(int(row[column].text) for row in summary.rows) == tones[state]
    assert len({row[1].text for row in summary.rows}) >= 2  # one row for each budget


def test_evidence_is_folded_on_the_page(everything):
    html = (everything[0] / "report.html").read_text()
    folded = re.findall(
        r'<details class="verdict"><summary class="[a-z-]+">. [a-z ]+</summary>', html
    )
    assert len(folded) > 20
    assert "training error" in re.search(r"</summary><small>(.*?)</small></details>", html)[1]


def localization_section(folder, network, group, budget, images):
    """The section of the report with a localizer's tests of one crop and dense."""

    def located(views, given, five):
        values = {
            "protocol": views, "images": images, "error": 40.0, "localization_error": given,
            "top5_localization_error": five,
        }  # fmt: skip
        key = f"{group}/{network}-seed0.{views}"
        return made_up.outcome(key, "localization", values, network, budget, 0, views=views)

    trained = made_up.training(network, budget, group=group)
    report.write([trained, located("center", 31.25, 45.5), located("dense", 29.75, 43.25)], folder)
    text = (folder / "report.md").read_text("utf-8")
    return text.partition("## Tables 13 and 14")[2].partition("\n## ")[0]


def test_localizers_are_beside_table_13(tmp_path):
    group = "tiny-64-short-localization"
    section = localization_section(tmp_path, "resnet18-a-small", group, "short", 400)
    rows = {line.split("|")[1].strip(): line for line in section.splitlines() if "|" in line}
    one_crop, dense = (rows[f"RPN, ResNet-101, {test}"] for test in ("1-crop", "dense"))
    assert "| 13.3 |" in one_crop
    assert "31.25" in one_crop
    assert "45.5" not in one_crop  # the paper gives no number for it
    assert "| 14.4 |" in dense
    assert "29.75" in dense
    assert "43.25" in dense
    assert "not run" in rows["RPN+RCNN, ResNet-101, dense"]
    assert "9.0" in section.partition("Table 14")[2]
    assert section.count("not comparable") == 2  # the headings of both columns
    assert "resnets paper run table13 --budget full --data FOLDER" in section


@pytest.mark.parametrize(
    ("network", "size", "images"),
    [("resnet101", 224, 50_000), ("resnet101", 224, 9_999), ("resnet101", 128, 50_000),
     ("resnet18-a", 224, 50_000)],
)  # fmt: skip
def test_only_the_papers_localizer_on_its_images_is_comparable(tmp_path, network, size, images):
    group = f"imagenet-{size}-full-localization"
    section = localization_section(tmp_path, network, group, "full", images)
    fair = (network, size, images) == ("resnet101", 224, 50_000)
    assert ("not comparable" not in section) == fair
    assert ("Not run at the paper's size yet" not in section) == fair


def test_tables_13_and_14_are_there_without_results(tmp_path):
    report.write([], tmp_path)
    section = (tmp_path / "report.md").read_text("utf-8").partition("## Tables 13 and 14")[2]
    assert section.count("not run") >= 4
    assert "33.1" in section
    assert "resnets paper run table13" in section
