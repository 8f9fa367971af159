// Completion scripts in the shells that they are for: what is offered after what.

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { completionScript, SHELLS, type Shell } from '../../src/cli/completion/scripts.js'
import { type Node, treeOf } from '../../src/cli/completion/tree.js'
import { createProgram } from '../../src/cli/main.js'
import { run, until } from '../lab/command.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(120_000))

const quiet = { out: () => {}, err: () => {}, live: false, columns: 80, onInterrupt: () => () => {} }
const tree = treeOf(createProgram(quiet, () => {}))
const directory = mkdtempSync(join(tmpdir(), 'ssw-completion-'))
t.teardown(() => rmSync(directory, { recursive: true, force: true }))
writeFileSync(join(directory, 'some file.yaml'), '')

function scriptOf(shell: Shell, of: readonly Node[] = tree): string {
  const file = join(directory, `${shell}-${of.length}`)
  writeFileSync(file, completionScript(shell, of))
  return file
}

/** What bash would offer for the last word of a line. */
async function bash(...line: readonly string[]): Promise<string[]> {
  const words = ['snapswitch', ...line].map((word) => `'${word}'`).join(' ')
  const script = `compopt() { :; }; cd ${directory}; . ${scriptOf('bash')}; COMP_WORDS=(${words}); COMP_CWORD=${line.length}; _snapswitch; printf '%s\\n' "\${COMPREPLY[@]}"`
  return lines(await run('bash', ['--norc', '-c', script]))
}

async function fish(...line: readonly string[]): Promise<string[]> {
  const script = `cd ${directory}; source ${scriptOf('fish')}; complete -C ${JSON.stringify(['snapswitch', ...line].join(' '))}`
  return lines(await run('fish', ['--no-config', '-c', script])).map((one) => one.split('\t')[0]!)
}

/** zsh completes for a line editor only: it gets one, on a terminal of zsh's own making, and Tab twice. */
async function zsh(t: Test, expected: string, ...line: readonly string[]): Promise<void> {
  const inner = `PS1=; LISTMAX=999; autoload -Uz compinit; compinit -D -u; source ${scriptOf('zsh')}; echo READY`
  const typed = `${['snapswitch', ...line].join(' ')}\\t\\t`
  const script = `
    zmodload zsh/zpty
    export TERM=xterm COLUMNS=200
    zpty shell zsh -f -i
    zpty -w shell ${JSON.stringify(inner)}
    zpty -r -m shell text '*READY*READY*'
    zpty -w -n shell $'${typed}'
    while sleep 0.1; do zpty -r -t shell text && print -rn -- "$text"; done`
  const child = spawn('zsh', ['-f', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (data) => {
    said += data
  })
  const closed = new Promise((resolve) => child.once('close', resolve))
  await until(expected, 20_000, () => (said.includes(expected) ? true : undefined)).then(
    () => t.pass(expected),
    () => t.fail(`${expected} was not offered: ${said}`),
  )
  child.kill()
  await closed
}

const lines = (text: string) => text.split('\n').filter((line) => line !== '')

t.test('the tree knows every command, and which options take a file', async (t) => {
  const paths = tree.map(({ path }) => path)
  for (const path of ['', 'status', 'snapshot', 'snapshot create', 'completion', 'reload'])
    t.ok(paths.includes(path), path)
  const config = tree.find(({ path }) => path === 'switch')?.flags.find(({ long }) => long === '--config')
  t.match(config, { short: '-c', value: 'file' })
  t.same(tree.find(({ path }) => path === 'completion')?.choices, SHELLS)
})

for (const [shell, ask] of [
  ['bash', bash],
  ['fish', fish],
] as const) {
  t.test(`${shell} offers commands, their options, and files where files are meant`, async (t) => {
    t.ok((await ask('')).includes('snapshot'))
    t.same(await ask('relo'), ['reload'])
    t.same((await ask('snapshot', 'cr')).sort(), ['create'])
    t.notOk((await ask('snapshot', '')).includes('status'), 'nothing of elsewhere')
    t.ok((await ask('status', '--')).includes('--json'))
    t.notOk((await ask('status', '--')).includes('--config'))
    t.match((await ask('switch', '--config', 'som')).join(), /some.*file\.yaml/)
    t.same((await ask('completion', '')).sort(), [...SHELLS].sort())
    t.ok((await ask('snapshot', 'create', 'lab0', '--')).includes('--name'), 'arguments between make no difference')
  })
}

t.test('zsh offers them, too', async (t) => {
  await zsh(t, 'create', 'snapshot', '')
  await zsh(t, '--json', 'status', '--j')
  await zsh(t, 'some\\ file.yaml', 'switch', '--config', join(directory, 'som'))
})

t.test('whatever a description has in it, the scripts are scripts', async (t) => {
  const odd = `it's "odd": $(touch ${directory}/touched) \`touch ${directory}/touched\` \\ [x] {y} *`
  const flags = [{ short: null, long: '--odd', description: odd, value: 'text' as const, choices: ['a', 'b'] }]
  const made: Node[] = [
    { path: '', commands: [{ name: 'one', description: odd }], flags, choices: [] },
    { path: 'one', commands: [], flags, choices: [] },
  ]
  await run('bash', ['-n', scriptOf('bash', made)])
  await run('zsh', ['-n', scriptOf('zsh', made)])
  await run('fish', ['--no-execute', scriptOf('fish', made)])
  const offered = await run('fish', [
    '--no-config',
    '-c',
    `source ${scriptOf('fish', made)}; complete -C 'snapswitch '`,
  ])
  t.match(offered, 'it\'s "odd": $(touch')
  await run('bash', [
    '--norc',
    '-c',
    `. ${scriptOf('bash', made)}; COMP_WORDS=(snapswitch ''); COMP_CWORD=1; _snapswitch`,
  ])
  await t.rejects(run('ls', [join(directory, 'touched')]))
})
