# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_wsecho_global_optspecs
    string join \n c/config= b/bind= log-level= h/help V/version
end

function __fish_wsecho_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_wsecho_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_wsecho_using_subcommand
    set -l cmd (__fish_wsecho_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c wsecho -n "__fish_wsecho_needs_command" -s c -l config -d 'Read this configuration file instead of /etc/wsecho.toml; it must exist' -r -F
complete -c wsecho -n "__fish_wsecho_needs_command" -s b -l bind -d 'Listen on this address instead of those in the file; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_needs_command" -l log-level -d 'Log at this level instead of the one in the file' -r -f -a "error\t'The service cannot do its job'
warn\t'An administrator should look at this. A peer alone can never cause it'
info\t'One line per session, and the life cycle of the service'
debug\t'Why something was decided'"
complete -c wsecho -n "__fish_wsecho_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wsecho -n "__fish_wsecho_needs_command" -s V -l version -d 'Print version'
complete -c wsecho -n "__fish_wsecho_needs_command" -f -a "serve" -d 'Run the service until SIGTERM (the default)'
complete -c wsecho -n "__fish_wsecho_needs_command" -f -a "check" -d 'Check the configuration: print "ok", or everything that is wrong with it'
complete -c wsecho -n "__fish_wsecho_needs_command" -f -a "snippet" -d 'Print a proxy configuration that passes WebSockets to this service'
complete -c wsecho -n "__fish_wsecho_needs_command" -f -a "probe" -d 'Prove that WebSockets work on a path, stage by stage, or say why they do not'
complete -c wsecho -n "__fish_wsecho_needs_command" -f -a "doctor" -d 'Find what is wrong on this host, from the unit to the proxy in front, and what fixes it'
complete -c wsecho -n "__fish_wsecho_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c wsecho -n "__fish_wsecho_using_subcommand serve" -s c -l config -d 'Read this configuration file instead of /etc/wsecho.toml; it must exist' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand serve" -s b -l bind -d 'Listen on this address instead of those in the file; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand serve" -l log-level -d 'Log at this level instead of the one in the file' -r -f -a "error\t'The service cannot do its job'
warn\t'An administrator should look at this. A peer alone can never cause it'
info\t'One line per session, and the life cycle of the service'
debug\t'Why something was decided'"
complete -c wsecho -n "__fish_wsecho_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wsecho -n "__fish_wsecho_using_subcommand check" -s c -l config -d 'Read this configuration file instead of /etc/wsecho.toml; it must exist' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand check" -s b -l bind -d 'Listen on this address instead of those in the file; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand check" -l log-level -d 'Log at this level instead of the one in the file' -r -f -a "error\t'The service cannot do its job'
warn\t'An administrator should look at this. A peer alone can never cause it'
info\t'One line per session, and the life cycle of the service'
debug\t'Why something was decided'"
complete -c wsecho -n "__fish_wsecho_using_subcommand check" -l user -d 'Check as this user, such as wsecho: whether it may read the file and open the ports' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand check" -l print -d 'Print every key with its value and where that comes from'
complete -c wsecho -n "__fish_wsecho_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wsecho -n "__fish_wsecho_using_subcommand snippet" -s c -l config -d 'Read this configuration file instead of /etc/wsecho.toml; it must exist' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand snippet" -s b -l bind -d 'Listen on this address instead of those in the file; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand snippet" -l log-level -d 'Log at this level instead of the one in the file' -r -f -a "error\t'The service cannot do its job'
warn\t'An administrator should look at this. A peer alone can never cause it'
info\t'One line per session, and the life cycle of the service'
debug\t'Why something was decided'"
complete -c wsecho -n "__fish_wsecho_using_subcommand snippet" -l upstream -d 'Share sessions among machines that listen on these addresses; nginx and haproxy only' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand snippet" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s t -l timeout -d 'The time for all stages together' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l resolve -d 'Use this address for this host, as in /etc/hosts; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l unix -d 'Connect to this Unix socket instead of the URL\'s host' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l proxy -d 'Go through this HTTP proxy, http://[USER:PASSWORD@]HOST:PORT; "none" ignores the environment' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l proxy-protocol -d 'Begin the connection with a PROXY header, as a load balancer does' -r -f -a "v1\t''
v2\t''"
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l ca -d 'Trust the certificates in this PEM file instead of those of the system' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l cert -d 'Show the server this client certificate, from a PEM file with its chain' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l key -d 'The private key of --cert, if that file does not hold it' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s H -l header -d 'Send this header, "Name: value"; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l origin -d 'Send this Origin, as a browser does for a page of https://SITE' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l subprotocol -d 'Offer this subprotocol; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l host -d 'Send this Host instead of the URL\'s' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l http2 -d 'Try WebSockets over HTTP/2 alone, or not at all; wss:// only' -r -f -a "only\t''
off\t''"
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l send -d 'Send this text, to a server that is no echo' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l expect -d 'Wait for a message that matches this regular expression instead of echoes' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l format -d 'The form of the report' -r -f -a "terminal\t'For people'
nagios\t'For Nagios and Icinga: a line with figures; exits with 0, 1, 2 or 3'
json\t'For programs'
prometheus\t'For Prometheus'"
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l output -d 'Replace this file at once instead of printing: for the textfile collector of node_exporter' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l warn -d 'With nagios: a warning beyond this limit, such as rtt=200ms, days=21 or idle=60s' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l crit -d 'With nagios: critical beyond this limit' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l count -d 'Then send this many messages and show their round trips, 1 to 100000; pings unless it is an echo' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l interval -d 'The time from one message of --count to the next' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l max-size -d 'Then find the largest message that comes back, up to this size' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l idle -d 'Then find out how long a silent connection lives, up to this time' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l load -d 'Then send messages for this long, up to 5m, and show throughput and latency; loopback addresses only, unless --i-own-this' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l connections -d 'Open this many connections for --load, 1 to 1000' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l in-flight -d 'Keep this many messages of --load in flight on each connection, 1 to 1024' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l rate -d 'Send this many messages a second with --load, over all connections, whether or not they come back; 1 to 1000000' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l message-size -d 'The payload of each message of --load, up to 1 MiB' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s 4 -l ipv4 -d 'Use IPv4 only'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s 6 -l ipv6 -d 'Use IPv6 only'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s k -l insecure -d 'Accept any certificate; the verdict says so'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s L -l follow -d 'Follow redirects, which browsers do not'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l connect-only -d 'Send no messages: open, ping and close'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -l i-own-this -d 'Allow --load against a server that is not on a loopback address'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s v -l verbose -d 'Show both heads of the handshake, without their secrets'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s q -l quiet -d 'Print the verdict alone'
complete -c wsecho -n "__fish_wsecho_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wsecho -n "__fish_wsecho_using_subcommand doctor" -s c -l config -d 'Read this configuration file instead of /etc/wsecho.toml; it must exist' -r -F
complete -c wsecho -n "__fish_wsecho_using_subcommand doctor" -s b -l bind -d 'Listen on this address instead of those in the file; can be repeated' -r
complete -c wsecho -n "__fish_wsecho_using_subcommand doctor" -l log-level -d 'Log at this level instead of the one in the file' -r -f -a "error\t'The service cannot do its job'
warn\t'An administrator should look at this. A peer alone can never cause it'
info\t'One line per session, and the life cycle of the service'
debug\t'Why something was decided'"
complete -c wsecho -n "__fish_wsecho_using_subcommand doctor" -l format -d 'The form of the report: terminal or json' -r -f -a "terminal\t'For people'
json\t'For programs'"
complete -c wsecho -n "__fish_wsecho_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wsecho -n "__fish_wsecho_using_subcommand help; and not __fish_seen_subcommand_from serve check snippet probe doctor help" -f -a "serve" -d 'Run the service until SIGTERM (the default)'
complete -c wsecho -n "__fish_wsecho_using_subcommand help; and not __fish_seen_subcommand_from serve check snippet probe doctor help" -f -a "check" -d 'Check the configuration: print "ok", or everything that is wrong with it'
complete -c wsecho -n "__fish_wsecho_using_subcommand help; and not __fish_seen_subcommand_from serve check snippet probe doctor help" -f -a "snippet" -d 'Print a proxy configuration that passes WebSockets to this service'
complete -c wsecho -n "__fish_wsecho_using_subcommand help; and not __fish_seen_subcommand_from serve check snippet probe doctor help" -f -a "probe" -d 'Prove that WebSockets work on a path, stage by stage, or say why they do not'
complete -c wsecho -n "__fish_wsecho_using_subcommand help; and not __fish_seen_subcommand_from serve check snippet probe doctor help" -f -a "doctor" -d 'Find what is wrong on this host, from the unit to the proxy in front, and what fixes it'
complete -c wsecho -n "__fish_wsecho_using_subcommand help; and not __fish_seen_subcommand_from serve check snippet probe doctor help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
