"""What a reader sees of a page in a browser."""

CONTRAST = """() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number)
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0)
  const paper = element => {
    for (; element; element = element.parentElement) {
      const color = parts(getComputedStyle(element).backgroundColor)
      if (color.length === 3 || color[3] > 0) return color
    }
    return [255, 255, 255]
  }
  const found = []
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    if (!walker.currentNode.data.trim() || element.closest('title')) continue
    const style = getComputedStyle(element)
    const [a, b] = [light(parts(element.closest('svg') ? style.fill : style.color)), light(paper(element))]
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), element.tagName, walker.currentNode.data.trim()])
  }
  return found
}"""


def faint(tab):
    """The texts of a page whose contrast with their background is below 4.5, the least of WCAG 2.1 (AA): (contrast, tag, text)."""
    return [each for each in tab.evaluate(CONTRAST) if each[0] < 4.5]
