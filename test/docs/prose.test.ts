// The documents' English, as far as a program can check it (CONTRIBUTING.md): sentences that one reading is enough for,
// with the subject first.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { repositoryRoot } from '../lab/repository.js'

const MOST_WORDS = 34

/** Made by the program, or a list of what was done when. */
const NOT_PROSE = /^(CHANGELOG|docs\/reference\/(cli|config|errors))\.md$/

const chains: readonly { readonly name: string; readonly found: RegExp }[] = [
  { name: 'begins with “What”', found: /^What [^?]*$/ },
  { name: '“so” or “such” that points back', found: /\b(is|are|be|was|were|stays?|travels?|goes|do|does) (so|such)$/ },
  {
    name: '“so” with the verb before its subject',
    found: /[,;] (and )?so (is|are|was|were|do|does|did|has|have|can) /,
  },
]

/** Sentences of a page: of its paragraphs, list items and cells. Code is none. */
function sentences(text: string): string[] {
  const prose = text.replace(/^```[\s\S]*?^```$/gm, '').replace(/<!--[\s\S]*?-->/g, '')
  const blocks: string[] = []
  let open = false
  for (const line of prose.split('\n')) {
    if (line.startsWith('|')) {
      blocks.push(...line.split(/(?<!\\)\|/))
      open = false
    } else if (/^(#|\s*$)/.test(line)) open = false
    else if (!open || /^\s*([-*]|\d+\.) /.test(line)) {
      blocks.push(line.replace(/^\s*([-*]|\d+\.) /, ''))
      open = true
    } else blocks.push(`${blocks.pop()} ${line.trim()}`)
  }
  return blocks.flatMap((block) =>
    block
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/`[^`]*`/g, 'CODE')
      .replace(/\*\*/g, '')
      .split(/(?<=[.?!:;])\s+(?=\S)/)
      .map((sentence) => sentence.trim().replace(/[.:;]$/, ''))
      .filter((sentence) => sentence !== ''),
  )
}

/** What is wrong with a sentence; null: nothing that a program sees. */
function faultOf(sentence: string): string | null {
  const words = sentence.split(/\s+/).length
  if (words > MOST_WORDS) return `${words} words`
  return chains.find(({ found }) => found.test(sentence))?.name ?? null
}

t.test('sentences are short, and say their subject first', async (t) => {
  const roots = [
    'README.md',
    'ARCHITECTURE.md',
    'CONTRIBUTING.md',
    'docs/*.md',
    'bench/README.md',
    'bench/vnsnap/README.md',
  ]
  const pages = execFileSync('git', ['ls-files', ...roots], {
    cwd: repositoryRoot(),
    encoding: 'utf8',
  })
    .split('\n')
    .filter((page) => page !== '' && !NOT_PROSE.test(page))
  let count = 0
  for (const page of pages) {
    for (const sentence of sentences(readFileSync(join(repositoryRoot(), page), 'utf8'))) {
      count++
      const fault = faultOf(sentence)
      if (fault !== null) t.fail(`${page}: ${fault}: ${sentence}`)
    }
  }
  t.ok(count > 1000, `${count} sentences`)
})

t.test('the check finds what is wrong', async (t) => {
  const faults = (text: string) =>
    sentences(text)
      .map(faultOf)
      .filter((fault) => fault !== null)
  t.same(faults(`${'word '.repeat(MOST_WORDS)}too.`), [`${MOST_WORDS + 1} words`])
  t.same(faults('What it does is no secret.'), ['begins with “What”'])
  t.same(faults('- A frame waits.\n- Others travel so.\n'), ['“so” or “such” that points back'])
  t.same(faults('| Frames pass, and so do tags. | |'), ['“so” with the verb before its subject'])
  t.same(faults('What is it?\n\n```\nWhat it prints is code.\n```\nIt runs, so it is there.'), [])
})
