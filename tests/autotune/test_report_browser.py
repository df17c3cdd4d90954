"""The report's page in a real browser: names under the pointer, one trial lit everywhere, tables that sort, no error."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autotune.report import points_from, select, write_report
from tests.autotune._records import trial
from tests.autotune.test_report_page import EVIL

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium"),
]
# what a person does, in the page itself; what came of it is left in the page
_DEEDS = """<script>
var errors=[];addEventListener("error",function(e){errors.push(e.message)});
addEventListener("securitypolicyviolation",function(e){errors.push(e.blockedURI)});
addEventListener("load",function(){
 var mark=document.querySelector('#front .mark.front[data-trial="2"]');
 mark.dispatchEvent(new MouseEvent("mousemove",{bubbles:true,clientX:300,clientY:300}));
 var said={tip:document.getElementById("tip").textContent,shown:document.getElementById("tip").style.display,
  lit:document.querySelectorAll('.lit[data-trial="2"]').length,others:document.querySelectorAll('.lit[data-trial]').length,
  titles:document.querySelectorAll(".mark>title").length};
 var heads=document.querySelectorAll("table.sortable th button");heads[3].click();
 said.order=Array.from(document.querySelectorAll("tbody tr")).map(function(r){return r.cells[0].textContent}).join(" ");
 heads[3].click();
 said.reverse=Array.from(document.querySelectorAll("tbody tr")).map(function(r){return r.cells[0].textContent}).join(" ");
 said.alerted=window.alerted===true;said.errors=errors;
 said.background=getComputedStyle(document.body).backgroundColor;
 said.wide=document.documentElement.scrollWidth-document.documentElement.clientWidth;
 var out=document.createElement("pre");out.id="said";
 out.textContent=JSON.stringify(said);document.body.appendChild(out)})
</script></head>"""


def visit(page: Path, *options: str) -> str:
    """The page as it stands after its scripts have run."""
    assert BROWSER is not None
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1360,900", *options]
    words += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=200, check=True).stdout


@pytest.fixture
def page(tmp_path: Path) -> Path:
    found = [
        trial(0, 0.7, 10**8),
        trial(1, 0.75, 3 * 10**8),
        trial(2, 0.9, 2 * 10**8, reason=EVIL),
        trial(3, None, 10**8),
    ]
    selection = select(points_from(found, metric_name="accuracy"))
    about = {"name": EVIL.replace("alert(1)", "alerted=true"), "metric": "accuracy", "memory_cap": 2 * 10**9}
    paths = write_report(tmp_path / "report", found, about, selection=selection)
    copy = tmp_path / "page.html"
    copy.write_text(paths.report_html.read_text(encoding="utf-8").replace("</head>", _DEEDS, 1), encoding="utf-8")
    return copy


@pytest.mark.parametrize(
    ("options", "background"),
    [((), "rgb(255, 255, 255)"), (("--blink-settings=preferredColorScheme=0",), "rgb(20, 24, 28)")],
    ids=["light", "dark"],
)
def test_a_person_s_deeds(page: Path, options: tuple[str, ...], background: str) -> None:
    (left,) = re.findall(r'<pre id="said">(.*?)</pre>', visit(page, *options), re.DOTALL)
    said = json.loads(html.unescape(left))
    assert said["errors"] == []
    assert said["alerted"] is False
    assert said["tip"].startswith("#2 sherl")
    assert "validation accuracy: 0.9000" in said["tip"]
    assert said["shown"] == "block"
    assert said["lit"] == said["others"] > 6  # in all figures and in the table
    assert said["titles"] == 0  # they became the words under the pointer
    assert said["order"] == "#0 #1 #2 #3"  # by the metric; what is missing comes last
    assert said["reverse"] == "#2 #1 #0 #3"
    assert said["background"] == background
    assert said["wide"] == 0  # wide tables scroll on their own
