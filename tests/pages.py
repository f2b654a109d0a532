"""A parser for the visible text of HTML pages, and hostile texts for injection tests."""

from html.parser import HTMLParser

HOSTILE = [
    '<img src=x onerror="document.title=1">',
    "</script><script>document.title='broken'</script>",
    '" onload="document.title=2" x="',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "</title></style></svg></table><iframe srcdoc='<script>top.document.title=3</script>'></iframe>",
    "\u202egnp.tac & <b>bold</b> &amp;",
    "a\x00b\n\udcff.png",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.stack = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.stack.append(tag)

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in {"script", "style"}:
            self.text.append(data)

    def all(self, tag, **expected):
        """Attributes of each element of a tag; `expected`: a word that each of these attributes must contain."""
        return [
            a for t, a in self.elements if t == tag and all(expected[k] in (a.get(k) or "").split() for k in expected)
        ]

    @property
    def words(self):
        """The visible text with single spaces."""
        return " ".join(" ".join(self.text).split())
