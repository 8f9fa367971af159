// The `snapswitch` command. It parses, asks a daemon, prints; all that is done is done by the daemons.
// Exit codes: 0 done, 1 an error (stderr says which and what to do), 2 wrong usage.

import { Command, CommanderError } from 'commander'
import { asSnapswitchError } from '../errors/errors.js'
import { version } from '../runtime/package.js'
import { addCaptureCommand } from './capture.js'
import { addCompletionCommand } from './completion/command.js'
import { addDiskCommands } from './disk-commands.js'
import { addDoctorCommand } from './doctor.js'
import { addExtcapCommand } from './extcap.js'
import { addInstallCommands } from './install/commands.js'
import { outputFailed, printError, systemTerminal, type Terminal } from './output.js'
import { addPlayCommand } from './play-command.js'
import { addRecordCommand } from './record.js'
import { addReplayCommand } from './replay.js'
import { addSnapshotCommands } from './snapshot-commands.js'
import { addSwitchCommands } from './switch-commands.js'
import { addTakeCommands } from './take-commands.js'
import { addTopCommand } from './top.js'

/** Runs the command line (as in process.argv) and sets the process's exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  // As a program that SIGPIPE ends: `snapswitch port list | head -1` is no error. Daemons write nothing there.
  process.stdout.on('error', outputFailed)
  process.stderr.on('error', () => undefined)
  process.exitCode = await run(argv, systemTerminal)
}

/** Runs the command line and gives the exit code. */
export async function run(argv: readonly string[], terminal: Terminal): Promise<number> {
  let code = 0
  const program = createProgram(terminal, (failure) => {
    code = failure
  })
  try {
    await program.parseAsync([...argv])
    return code
  } catch (thrown) {
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? 0 : 2
    printError(terminal, asSnapswitchError(thrown))
    return 1
  }
}

/** All commands; the reference is made from it, too. */
export function createProgram(terminal: Terminal, setCode: (code: number) => void): Command {
  const program = new Command('snapswitch')
    .description('A userspace virtual switch that takes consistent, restorable snapshots of a whole network of VMs')
    .version(version)
    .exitOverride()
    .configureOutput({ writeOut: (text) => terminal.out(text), writeErr: (text) => terminal.err(text) })
    .configureHelp({ sortSubcommands: false, showGlobalOptions: false })
    .showSuggestionAfterError()
    .showHelpAfterError('(see --help)')
    .addHelpText(
      'after',
      `
A first look:
  snapswitch doctor                              what this machine can do, and what each lack costs
  snapswitch take br0                            the switch in the place of a bridge, or:
  snapswitch switch --config switch.yaml         with ports of its own; one on every host
  snapswitch coordinator --config lab.yaml       where a network has several hosts: one for all
  snapswitch snapshot create br0 --name demo     while everything runs
  snapswitch snapshot restore demo --replace

Every command that shows something takes -j for JSON. Errors go to stderr as \`error CODE: message\`.`,
    )
  program
    .command('switch')
    .description('run the switch daemon of this host, until SIGTERM')
    .option('-c, --config <file>', 'its YAML configuration; default: /etc/snapswitch/switch.yaml, if it is there')
    .action(async ({ config }: { config?: string }) => {
      const { runSwitch } = await import('../../switch/main.js')
      const { startCoordinator } = await import('./embedded-coordinator.js')
      await runSwitch(config ?? null, startCoordinator)
    })
  program
    .command('coordinator')
    .description('run the coordinator of a lab, until SIGTERM')
    .requiredOption('-c, --config <file>', 'its YAML configuration')
    .action(async ({ config }: { config: string }) => {
      const { runCoordinator } = await import('../../coordinator/main.js')
      await runCoordinator(config)
    })
  addTakeCommands(program, terminal)
  addSwitchCommands(program, terminal)
  addDiskCommands(program, terminal)
  addTopCommand(program, terminal)
  addCaptureCommand(program, terminal, setCode)
  addRecordCommand(program, terminal, setCode)
  addReplayCommand(program, terminal, setCode)
  addExtcapCommand(program, terminal)
  addSnapshotCommands(program, terminal, setCode)
  addPlayCommand(program, terminal, setCode)
  addDoctorCommand(program, terminal, setCode)
  addInstallCommands(program, terminal)
  addCompletionCommand(program, terminal)
  return program
}
