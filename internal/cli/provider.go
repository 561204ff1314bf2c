package cli

import "context"

const (
	featuresVersion  = "2021-07-01"
	featuresPath     = subscriptionPath + "/providers/Microsoft.Features/providers/{namespace}/features"
	providerPath     = subscriptionPath + "/providers/{namespace}"
	featureColumns   = "[].{Name:name, RegistrationState:properties.state}"
	providerColumns  = "[].{Namespace:namespace, RegistrationState:registrationState, RegistrationPolicy:registrationPolicy}"
	extensionColumns = "[].{Name:name, Version:version, ExtensionType:extensionType}"
)

var (
	namespaceArg   = Arg{Names: "--namespace", Required: true, Help: "The resource provider's namespace, such as Microsoft.ContainerService."}
	featureNameArg = Arg{Names: "--name -n", Required: true, Help: "The feature's name."}
	providerArg    = Arg{Names: "--namespace -n", Required: true, Help: "The resource provider's namespace, such as Microsoft.ContainerService."}
	extensionArgs  = []Arg{
		{Names: "--name -n", Help: "The extension's name."},
		{Names: "--upgrade -U", Kind: Flag, Help: "Update it if it is there already."},
		{Names: "--version", Help: "The version wanted."},
		{Names: "--source -s", Help: "Where it would come from."},
		{Names: "--allow-preview", Kind: Bool, Help: "Preview versions too."},
		{Names: "--yes -y", Kind: Flag, Help: "Do not ask for confirmation."},
	}
)

var providerCommands = []Command{
	{Path: "feature register", Help: "Register a preview feature.", Run: featureRegister, Columns: featureColumns,
		Args: []Arg{namespaceArg, featureNameArg}},
	{Path: "feature show", Help: "Show a preview feature.", ID: featuresPath + "/{name}", Run: show(featuresVersion), Columns: featureColumns,
		Args: []Arg{namespaceArg, featureNameArg}},
	{Path: "feature list", Help: "List preview features.", Run: featureList, Columns: featureColumns,
		Args: []Arg{optional(namespaceArg)}},
	{Path: "provider register", Help: "Register a resource provider.", Run: providerRegister,
		Args: []Arg{providerArg, {Names: "--wait", Kind: Flag, Help: "Wait until it is registered."}}},
	{Path: "provider show", Help: "Show a resource provider.", ID: providerPath, Run: show(resourcesVersion), Columns: providerColumns,
		Args: []Arg{providerArg}},
	{Path: "provider list", Help: "List resource providers.", Run: list("", subscriptionPath+"/providers", resourcesVersion),
		Columns: providerColumns},
	{Path: "extension add", Help: "Does nothing: what the extensions do is built in.", Run: nothing, Args: extensionArgs, Lenient: true},
	{Path: "extension update", Help: "Does nothing: what the extensions do is built in.", Run: nothing, Args: extensionArgs, Lenient: true},
	{Path: "extension remove", Help: "Does nothing: what the extensions do is built in.", Run: nothing, Args: extensionArgs, Lenient: true},
	{Path: "extension list", Help: "List the extensions of az that are built in.", Run: extensionList, Columns: extensionColumns},
	{Path: "extension show", Help: "Show an extension of az that is built in.", Run: extensionShow, Columns: extensionColumns,
		Args: []Arg{{Names: "--name -n", Required: true, Help: "The extension's name."}}},
}

func nothing(context.Context, *Input) (any, error) { return nil, nil }

func extensionList(context.Context, *Input) (any, error) {
	all := []any{}
	for _, name := range []string{"aks-preview", "dataprotection", "k8s-extension"} {
		all = append(all, map[string]any{"name": name, "version": "1.0.0", "extensionType": "builtin", "path": nil,
			"preview": false, "experimental": false})
	}
	return all, nil
}

func extensionShow(ctx context.Context, in *Input) (any, error) {
	all, err := extensionList(ctx, in)
	if err != nil {
		return nil, err
	}
	for _, e := range all.([]any) {
		if text(e, "name") == in.Text("name") {
			return e, nil
		}
	}
	return nil, usagef("The extension %s is not installed.", in.Text("name"))
}

func featureRegister(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, featuresPath+"/{name}/register")
	if err != nil {
		return nil, err
	}
	return in.post(ctx, "Registering "+in.Text("name"), path, featuresVersion, nil)
}

func featureList(ctx context.Context, in *Input) (any, error) {
	template := featuresPath
	if !in.Has("namespace") {
		template = subscriptionPath + "/providers/Microsoft.Features/features"
	}
	return list("", template, featuresVersion)(ctx, in)
}

// providerRegister prints nothing, as az does.
func providerRegister(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, providerPath+"/register")
	if err != nil {
		return nil, err
	}
	_, err = in.post(ctx, "Registering "+in.Text("namespace"), path, resourcesVersion, nil)
	return nil, err
}
