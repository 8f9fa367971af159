// The documents: what they link to is there, what they tell to run exists, and no page is out of reach.

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { createProgram } from '../../src/cli/main.js'
import { repositoryRoot } from '../lab/repository.js'

const quiet = { out: () => {}, err: () => {}, live: false, columns: 80, onInterrupt: () => () => {} }
const read = (path: string) => readFileSync(join(repositoryRoot(), path), 'utf8')

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'], {
  cwd: repositoryRoot(),
  encoding: 'utf8',
})
  .split('\n')
  .filter((path) => path !== '' && existsSync(join(repositoryRoot(), path)))
const pages = new Map(files.map((path) => [path, read(path)]))

/** As GitHub makes them. */
function anchors(text: string): Set<string> {
  const heads = [...text.matchAll(/^#+ (.+)$/gm)].map(([, head]) => head.replaceAll('`', ''))
  return new Set(
    heads.map((head) =>
      head
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  )
}

/** Paths in the repository, and what is looked for in them. */
function links(page: string, text: string): { path: string; anchor: string }[] {
  const prose = text.replace(/^```[\s\S]*?^```$/gm, '')
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [path, anchor = ''] = target.split('#')
      return { path: path === '' ? page : normalize(join(dirname(page), path)), anchor }
    })
}

t.test('links lead somewhere', async (t) => {
  let count = 0
  for (const [page, text] of pages) {
    for (const { path, anchor } of links(page, text)) {
      count++
      if (!existsSync(join(repositoryRoot(), path))) t.fail(`${page}: no ${path}`)
      else if (anchor !== '' && !anchors(read(path)).has(anchor)) t.fail(`${page}: ${path} has no #${anchor}`)
    }
  }
  t.ok(count > 50, `${count} links`)
})

t.test('every page of docs is reached from the README', async (t) => {
  const seen = new Set<string>()
  const walk = (page: string): void => {
    if (seen.has(page) || !pages.has(page)) return
    seen.add(page)
    for (const { path } of links(page, pages.get(page)!)) walk(path)
  }
  walk('README.md')
  t.same(
    files.filter((path) => path.startsWith('docs/') && !seen.has(path)),
    [],
  )
})

t.test('commands and options that the documents name exist', async (t) => {
  const program = createProgram(quiet, () => {})
  let count = 0
  const lookUp = (words: readonly string[]): string | null => {
    let command = program
    for (const [at, word] of words.entries()) {
      const child = command.commands.find((one) => one.name() === word)
      if (child !== undefined) {
        command = child
        continue
      }
      if (command.commands.length > 0) return /^[a-z-]+$/.test(word) && at === 0 ? `no command ${word}` : null
      if (/^--?[a-z]/.test(word) && !['--help', '-h'].includes(word)) {
        const option = word.replace(/=.*/, '')
        if (!command.options.some((one) => one.long === option || one.short === option)) return `no option ${option}`
      }
    }
    return null
  }
  const documented = [...pages].filter(([page]) => page === 'README.md' || page.startsWith('docs/'))
  for (const [page, text] of documented) {
    for (const [, rest] of text.matchAll(/(?:^|[`\s/])snapswitch ((?:[a-z]|--?[a-z])[^\n`#&|;)"]*)/gm)) {
      // Sentences speak of it, too: what follows is a command when it begins like one.
      const words = rest.trim().split(/\s+/)
      if (!program.commands.some((one) => one.name() === words[0])) continue
      count++
      const fault = lookUp(words)
      if (fault !== null) t.fail(`${page}: snapswitch ${rest.trim()}: ${fault}`)
    }
  }
  t.ok(count > 25, `${count} commands`)
  t.equal(lookUp(['snapshot', 'create', 'lab0', '--nmae', 'x']), 'no option --nmae', 'a wrong one is found')

  const { scripts } = JSON.parse(read('package.json'))
  for (const [page, text] of documented) {
    for (const [, name] of text.matchAll(/npm run (?:--silent )?([a-z:]+)/g))
      t.ok(name in scripts, `${page}: npm run ${name}`)
    for (const [, path] of text.matchAll(/(?:^|[`\s])((?:scripts|bin)\/[a-z]+)/gm))
      t.ok(existsSync(join(repositoryRoot(), path)), `${page}: ${path}`)
  }
})

t.test('files that the documents name are there', async (t) => {
  let count = 0
  for (const [page, text] of pages) {
    if (page === 'CHANGELOG.md') continue
    for (const [, path] of text.matchAll(
      /`((?:src|switch|coordinator|test|docs|examples|packaging|man)\/[\w./-]+)`/g,
    )) {
      count++
      if (!existsSync(join(repositoryRoot(), path))) t.fail(`${page}: no ${path}`)
    }
  }
  t.ok(count > 50, `${count} files`)
})
