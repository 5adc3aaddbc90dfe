"""The book tree: entity, desk, book, each with its counts and, where there is one currency, its realised P&L.

Owns the nodes. The sums come from `rollup`; all currencies of the node under the cursor stand below the tree. May not read segments.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from pks.tui.figures import rounded, sign
from pks.tui.names import BookPlace
from pks.tui.rollup import Roll


class Node(NamedTuple):
    """What a node stands for: its level (all, entity, desk, book), its name, the books in it."""

    level: str
    name: str
    books: frozenset[int]


class BookTree(Tree[Node]):
    """Books by entity and desk."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "fold", "Close", show=False),
        Binding("right", "unfold", "Open", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("j", "cursor_down", "Down", show=False),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__("all", data=Node("all", "all books", frozenset()), id=id)
        self.show_guides = True
        self.guide_depth = 2
        self.auto_expand = False
        self._shape: list[tuple[int, BookPlace]] = []
        self._made: list[TreeNode[Node]] = []

    def show_books(self, books: list[tuple[int, BookPlace]]) -> None:
        """Make the nodes anew where the books are others than before; all stay open."""
        if books == self._shape:
            return
        self._shape = books
        self.clear()
        self.root.data = Node("all", "all books", frozenset(book_id for book_id, _ in books))
        self._made = [self.root]
        made: dict[tuple[str, ...], TreeNode[Node]] = {}
        for _, (entity, desk, _) in books:
            for parent, key in ((self.root, (entity,)), (None, (entity, desk))):
                if key not in made:
                    inside = frozenset(book_id for book_id, place in books if tuple(place)[: len(key)] == key)
                    node = Node("entity" if len(key) == 1 else "desk", key[-1], inside)
                    made[key] = (made[key[:-1]] if parent is None else parent).add(key[-1], node, expand=True)
                    self._made.append(made[key])
        for book_id, (entity, desk, book) in books:
            self._made.append(made[entity, desk].add_leaf(book, Node("book", book, frozenset([book_id]))))
        self.root.expand()

    @property
    def chosen(self) -> TreeNode[Node]:
        """The node under the cursor; Textual's `cursor_node` stays one of the tree before until the cursor moves."""
        return self.get_node_at_line(self.cursor_line) or self.root

    def show_rolls(self, rolls: dict[int, Roll]) -> None:
        """Put the sums into the labels."""
        for node in self._made:
            assert node.data is not None, "every node stands for something"
            label = _label(node.data, roll_of(node.data, rolls))
            if node.label != label:
                node.set_label(label)

    def action_fold(self) -> None:
        node = self.cursor_node
        if node is not None and node.allow_expand and node.is_expanded:
            node.collapse()
        elif node is not None and node.parent is not None:
            self.move_cursor(node.parent)

    def action_unfold(self) -> None:
        if self.cursor_node is not None:
            self.cursor_node.expand()


def roll_of(node: Node, rolls: dict[int, Roll]) -> Roll:
    """Sums of all books of a node."""
    whole = Roll()
    for book_id in node.books:
        if book_id in rolls:
            whole.add(rolls[book_id])
    return whole


def rolls_text(node: Node, roll: Roll) -> Text:
    """All currencies of a node: gross and net."""
    text = Text()
    text.append(f"{node.name}\n", "bold")
    text.append(f"{roll.open_count:,} open of {roll.count:,} positions\n", "dim")
    text.append(f"{'':4}{'realised':>12} {'net of fees':>12}\n", "dim")
    for currency in sorted(roll.gross):
        text.append(f"{currency:<4}")
        gross, net = roll.gross[currency], roll.net[currency]
        text.append(f"{rounded(gross, width=12):>12} ", _colour(sign(gross)))
        text.append(f"{rounded(net, width=12):>12}", _colour(sign(net)))
        text.append("\n")
    text.rstrip()
    return text


def _label(node: Node, roll: Roll) -> Text:
    text = Text(node.name, "bold" if node.level in ("all", "entity") else "")
    text.append(f" {roll.count}", "dim")
    if len(roll.net) == 1:
        ((currency, amount),) = roll.net.items()
        text.append(f" {rounded(amount, 0)} {currency}", _colour(sign(amount)))
    return text


def _colour(direction: int) -> str:
    return "green" if direction > 0 else "red" if direction < 0 else ""
